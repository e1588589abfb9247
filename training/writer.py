"""One writer a run: of two drivers that would train the same run, the second is refused.

The one that writes leaves its name beside the run's folder and counts there as long as it lives.
Who finds another's name watches it: a count that moves is a writer's, one that stands still was
left by a driver that died. No clocks are compared. A driver that was suspended for so long that
another took over finds the other's name, and its workers end without a write. So do all but one of
those that began at the same moment on storage too slow to tell them apart at the start.

Each attempt of a driver has a name of its own, for the workers of the one before may live: cut off
from the driver, not from storage.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mdsrec import files
from mdsrec.errors import InputError
from training.stopping import OUT_OF_REACH

log = logging.getLogger("training")

BEAT = 3.0  # seconds between counts
SILENT = 30.0  # seconds after which a count that stands still was left behind
SETTLE = 0.5  # seconds in which a driver that started at the same moment has written too

Sign = dict[str, Any]


class Writer:
    """A driver's sign beside the run; `attempt` is the token of those who write for it now."""

    def __init__(self, run: str) -> None:
        self._run, self._count = run, 0
        self._turn = threading.Lock()
        self._who: Sign = {"host": socket.gethostname(), "pid": os.getpid()}
        self.attempt = uuid.uuid4().hex

    def other(self) -> Sign | None:
        """The driver that writes the run, if it is another one."""
        return other_writer(self._run, self.attempt)

    def sign(self) -> None:
        sign = {**self._who, "token": self.attempt, "count": self._count}
        files.write_json(writer_uri(self._run), sign)

    def next_attempt(self) -> str:
        """The token of another attempt. InputError if the run was taken over."""
        with self._turn:
            if other := self.other():
                raise InputError(refusal(self._run, other))
            self.attempt = uuid.uuid4().hex
            self.sign()
        return self.attempt

    def beat(self, ended: threading.Event) -> None:
        """Count until the end, or until another driver took over."""
        while not ended.wait(BEAT):
            with self._turn, suppress(*OUT_OF_REACH):  # storage may be back at the next beat
                if self.other():
                    return
                self._count += 1
                self.sign()


@contextmanager
def only_writer(run: str) -> Iterator[Writer]:
    """While inside, no other driver trains `run`.

    InputError names the driver that trains it already.
    """
    _wait_for_silence(run)
    writer = Writer(run)
    writer.sign()
    time.sleep(SETTLE)
    if other := writer.other():
        raise InputError(refusal(run, other))
    ended = threading.Event()
    beating = threading.Thread(target=writer.beat, args=(ended,), name="writer", daemon=True)
    beating.start()
    try:
        yield writer
    finally:
        ended.set()
        beating.join()
        with suppress(*OUT_OF_REACH):
            if not writer.other():
                filesystem, path = files.file_system(writer_uri(run))
                filesystem.delete_file(path)


def writer_uri(run: str) -> str:
    return f"{run}.writer"


def other_writer(run: str, token: str) -> Sign | None:
    """The driver that writes the run, if `token` is not its attempt's."""
    found = _read(run)
    return found if found and found["token"] != token else None


def refusal(run: str, writer: Sign) -> str:
    return (
        f"{run}: process {writer['pid']} on {writer['host']} trains it: wait for it, end it by a "
        f"file {run}/stop, or choose another name"
    )


def _wait_for_silence(run: str) -> None:
    """Until nobody writes the run; InputError if somebody does."""
    found = _read(run)
    if found is None:
        return
    log.info("%s", f"{writer_uri(run)} is there: waiting {SILENT:g} s to see whether it moves")
    deadline = time.monotonic() + SILENT
    while time.monotonic() < deadline:
        time.sleep(BEAT / 10)
        now = _read(run)
        if now is None:
            return
        if now != found:
            raise InputError(refusal(run, now))


def _read(run: str) -> Sign | None:
    """None where nobody's sign is, or a torn one."""
    try:
        found: Sign = files.read_json(writer_uri(run))
    except ValueError:
        return None
    return found if "token" in found else None
