"""Stop requests, on the side of the driver and of users.

A stop request is a file in the run folder, because all nodes share that folder. The driver writes
it on SIGTERM and at the end of `--minutes`; a user can write it with `touch <run>/stop`. Rank 0
watches for it (see `signals.py`).
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from mdsrec import files
from mdsrec.run_paths import RunPaths

log = logging.getLogger("training")

SIGTERM = "SIGTERM"  # a reason
RETRY_SECONDS = 1.0  # between two attempts to write the stop file
DUPLICATE_SECONDS = 1.0  # a second SIGTERM this soon is the first one, forwarded by the parent


@dataclass
class StopRequest:
    """The reason why the driver requested a stop; empty if it did not."""

    reason: str = ""


@contextmanager
def stop_on_request(run: str, minutes: float | None = None) -> Iterator[StopRequest]:
    """Stop the training of `run` at the first SIGTERM and after so many minutes.

    Both write the stop file; the workers then save and end. A second SIGTERM gets the handler that
    was installed before. A stop file of an earlier training is deleted.
    """
    request = StopRequest()
    _delete_stop_file(run)

    def stop(reason: str) -> None:
        if not request.reason:
            request.reason = reason
            log.info("%s: requesting the workers to save and stop", reason)
            threading.Thread(target=_write_stop_file, args=(run,), name="stop", daemon=True).start()

    timer = threading.Timer(60 * (minutes or 0), stop, [f"--minutes {minutes or 0:g}"])
    timer.daemon = True
    if minutes is not None:
        timer.start()
    try:
        with _on_first_sigterm(lambda: stop(SIGTERM)):
            yield request
    finally:
        timer.cancel()
        _delete_stop_file(run)


@contextmanager
def _on_first_sigterm(action: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # cannot install a handler
        yield
        return
    previous, first_time = signal.getsignal(signal.SIGTERM), 0.0

    def handle(*_: Any) -> None:
        nonlocal first_time
        if not first_time:
            first_time = time.monotonic()
            action()
        elif time.monotonic() - first_time > DUPLICATE_SECONDS:
            signal.signal(signal.SIGTERM, previous)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def is_stop_requested(run: str) -> bool:
    """Return True if the run folder has a stop file."""
    filesystem, path = files.file_system(RunPaths(run).stop)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def _write_stop_file(run: str) -> None:
    """Write the stop file; while storage cannot be reached, try again."""
    while True:
        with suppress(*files.STORAGE_ERRORS):
            files.write_bytes(RunPaths(run).stop, b"")
            return
        time.sleep(RETRY_SECONDS)


def _delete_stop_file(run: str) -> None:
    if is_stop_requested(run):
        filesystem, path = files.file_system(RunPaths(run).stop)
        filesystem.delete_file(path)
