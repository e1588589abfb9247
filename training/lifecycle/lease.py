"""One writer a run: of two drivers that would train the same run, the second is refused.

The one that writes leaves its name beside the run's folder and counts there as long as it lives.
Who finds another's name watches it: a count that moves is a writer's, one that stands still was
left by a driver that died. No clocks are compared. A driver that was suspended for so long that
another took over finds the other's name, and its workers end without a write. So do all but one of
those that began at the same moment on storage too slow to tell them apart at the start.

A driver numbers its attempts, for the workers of the one before may live: cut off from the driver,
not from storage. They find the higher number, and end without a write too.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from mdsrec import files
from mdsrec.errors import InputError
from training.lifecycle.stopping import OUT_OF_REACH

log = logging.getLogger("training")

BEAT = 3.0  # seconds between counts
SILENT = 30.0  # seconds after which a count that stands still was left behind
SETTLE = 0.5  # seconds in which a driver that started at the same moment has written too

Sign = dict[str, Any]


class Attempt(NamedTuple):
    """What the workers of one attempt write for."""

    driver: str
    number: int


class Writer:
    """A driver's sign beside the run."""

    def __init__(self, run: str) -> None:
        self._run, self._count = run, 0
        self._turn = threading.Lock()
        self._who: Sign = {"host": socket.gethostname(), "pid": os.getpid()}
        self._attempt = Attempt(uuid.uuid4().hex, 0)

    def other(self) -> Sign | None:
        """The sign of another driver that writes the run."""
        found = _read(self._run)
        return found if found and found["token"] != self._attempt.driver else None

    def sign(self) -> None:
        driver, number = self._attempt
        sign = {**self._who, "token": driver, "attempt": number, "count": self._count}
        files.write_json(writer_uri(self._run), sign)

    def begin_attempt(self) -> Attempt:
        """One more; those before are told as soon as storage can be reached."""
        with self._turn, suppress(*OUT_OF_REACH):
            self._attempt = self._attempt._replace(number=self._attempt.number + 1)
            if not self.other():
                self.sign()
        return self._attempt

    def beat(self, ended: threading.Event) -> None:
        """Count until the end, or until another driver took over."""
        while not ended.wait(BEAT):
            with self._turn, suppress(*OUT_OF_REACH):  # storage may be back at the next beat
                if self.other():
                    return
                self._count += 1
                self.sign()


@contextmanager
def only_writer(run: str, takes_over: bool = False) -> Iterator[Writer]:
    """While inside, no other driver trains `run`; one that does when this `takes_over` gives way.

    InputError names the driver that trains it already.
    """
    if not takes_over:
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


def is_given_up(run: str, attempt: Attempt) -> bool:
    """Whether another driver, or a later attempt of the same one, writes the run."""
    found = _read(run)
    if not found:
        return False
    return bool(found["token"] != attempt.driver or found["attempt"] > attempt.number)


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
