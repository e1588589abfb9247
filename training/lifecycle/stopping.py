"""Who may ask a training to stop.

The run's folder is what all nodes share, so a file in it asks: the driver puts it there on SIGTERM
or when its minutes are over, a user by `touch <run>/stop`. A worker whose own process gets SIGTERM
(its node leaves) keeps that for the next step.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs

from mdsrec import files
from mdsrec.errors import InputError

log = logging.getLogger("training")

SIGTERM = "SIGTERM"
OUT_OF_REACH = (OSError, pa.ArrowException, InputError)  # what storage raises
TRY_EVERY = 1.0  # seconds
SAME_SIGTERM = 1.0  # seconds in which a process and its parent are told the same


@dataclass
class Asked:
    """Why the driver asked its training to stop; empty if it did not."""

    reason: str = ""


@contextmanager
def asking(run: str, minutes: float | None = None) -> Iterator[Asked]:
    """While inside, SIGTERM and the end of the minutes ask the training of `run` to stop; a second
    SIGTERM does what it did before.
    """
    asked = Asked()
    _forget(run)

    def ask(reason: str) -> None:
        if not asked.reason:
            asked.reason = reason
            log.info("%s: asking the workers to save and stop", reason)
            threading.Thread(target=_put, args=(run,), name="ask", daemon=True).start()

    clock = threading.Timer(60 * (minutes or 0), ask, [f"--minutes {minutes or 0:g}"])
    clock.daemon = True
    if minutes is not None:
        clock.start()
    try:
        with _at_first_sigterm(lambda: ask(SIGTERM)):
            yield asked
    finally:
        clock.cancel()
        _forget(run)


@contextmanager
def _at_first_sigterm(action: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # no signal arrives here
        yield
        return
    former, heard = signal.getsignal(signal.SIGTERM), 0.0

    def act(*_: Any) -> None:
        nonlocal heard
        if not heard:
            heard = time.monotonic()
            action()
        elif time.monotonic() - heard > SAME_SIGTERM:
            signal.signal(signal.SIGTERM, former)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, act)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def stop_uri(run: str) -> str:
    return f"{run}/stop"


def is_asked(run: str) -> bool:
    filesystem, path = files.file_system(stop_uri(run))
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def _put(run: str) -> None:
    """Storage that is out of reach may be back the next time."""
    while True:
        with suppress(*OUT_OF_REACH):
            files.write_bytes(stop_uri(run), b"")
            return
        time.sleep(TRY_EVERY)


def _forget(run: str) -> None:
    if is_asked(run):
        filesystem, path = files.file_system(stop_uri(run))
        filesystem.delete_file(path)


_leaving = threading.Event()


def keep_sigterm() -> None:
    """From now on the first SIGTERM of this process is kept for `node_leaves`, and the second does
    what it did before. For the main thread alone.
    """
    former = signal.getsignal(signal.SIGTERM)

    def keep(*_: Any) -> None:
        _leaving.set()
        signal.signal(signal.SIGTERM, former or signal.SIG_DFL)

    signal.signal(signal.SIGTERM, keep)


def node_leaves() -> bool:
    """Whether this process was told to end."""
    return _leaving.is_set()
