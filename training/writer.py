"""One writer a run: of two drivers that would train the same run, the second is refused.

The one that writes leaves its name beside the run's folder and counts there as long as it lives.
Who finds another's name watches it: a count that moves is a writer's, one that stands still was
left by a driver that died. No clocks are compared. A driver that was suspended for so long that
another took over finds the other's name, and its workers end without a write. So do all but one of
those that began at the same moment on storage too slow to tell them apart at the start.
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


@contextmanager
def only_writer(run: str) -> Iterator[str]:
    """While inside, no other driver trains `run`; the token that tells this one from others.

    InputError names the driver that trains it already.
    """
    sign: Sign = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
    _wait_for_silence(run)
    _write(run, sign, 0)
    time.sleep(SETTLE)
    if other := other_writer(run, sign["token"]):
        raise InputError(refusal(run, other))
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(run, sign, ended), name="writer", daemon=True)
    beating.start()
    try:
        yield str(sign["token"])
    finally:
        ended.set()
        beating.join()
        with suppress(*OUT_OF_REACH):
            if not other_writer(run, sign["token"]):
                filesystem, path = files.file_system(writer_uri(run))
                filesystem.delete_file(path)


def writer_uri(run: str) -> str:
    return f"{run}.writer"


def other_writer(run: str, token: str) -> Sign | None:
    """The driver that writes the run, if it is another one than that of `token`."""
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


def _beat(run: str, sign: Sign, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT):
        with suppress(*OUT_OF_REACH):  # storage may be back at the next beat
            if other_writer(run, sign["token"]):
                return
            count += 1
            _write(run, sign, count)


def _write(run: str, sign: Sign, count: int) -> None:
    files.write_json(writer_uri(run), {**sign, "count": count})


def _read(run: str) -> Sign | None:
    """None where nobody's sign is, or a torn one."""
    try:
        found: Sign = files.read_json(writer_uri(run))
    except ValueError:
        return None
    return found if "token" in found else None
