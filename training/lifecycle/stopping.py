"""Stop requests, on the side of the driver and of users.

A stop request is a file in the run folder, because all nodes share that folder. The driver writes
it on SIGTERM, on SIGINT (Ctrl-C) and at the end of `--minutes`; a user can write it with
`touch <run>/stop`. Rank 0 watches for it (see `signals.py`).
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pyarrow import fs

from mdsrec import files
from mdsrec.run_paths import RunPaths

log = logging.getLogger("training")

GRACEFUL = (signal.SIGTERM, signal.SIGINT)  # at the first one the workers save
RETRY_SECONDS = 1.0  # between two attempts to write the stop file
DUPLICATE_SECONDS = 1.0  # a second SIGTERM this soon is the first one, forwarded by the parent


@dataclass
class StopRequest:
    """The reason why the driver requested a stop; empty if it did not. 0 if it was no signal."""

    reason: str = ""
    signum: int = 0

    @property
    def exit_code(self) -> int:
        """Return the exit code that shells use for the signal, 0 without one."""
        return 128 + self.signum if self.signum else 0


@contextmanager
def stop_on_request(run: str, minutes: float | None = None) -> Iterator[StopRequest]:
    """Stop the training of `run` at the first of GRACEFUL signals and after so many minutes.

    Both write the stop file; the workers then save and end. A second signal gets the handler that
    was installed before. A stop file that is there already is a request too: delete that of an
    earlier training with `forget_stop` before anything that takes long.
    """
    request = StopRequest()

    def stop(reason: str, signum: int = 0) -> None:
        if not request.reason:
            request.reason, request.signum = reason, signum
            log.info("%s: requesting the workers to save and stop", reason)
            threading.Thread(target=_write_stop_file, args=(run,), name="stop", daemon=True).start()

    timer = threading.Timer(60 * (minutes or 0), stop, [f"--minutes {minutes or 0:g}"])
    timer.daemon = True
    if minutes is not None:
        timer.start()
    try:
        with _on_first_signal(lambda signum: stop(signal.Signals(signum).name, signum)):
            yield request
    finally:
        timer.cancel()
        forget_stop(run)


@contextmanager
def _on_first_signal(action: Callable[[int], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # cannot install a handler
        yield
        return
    previous = {int(signum): signal.getsignal(signum) for signum in GRACEFUL}
    first_time = 0.0

    def handle(signum: int, _frame: object) -> None:
        nonlocal first_time
        if not first_time:
            first_time = time.monotonic()
            action(signum)
        elif time.monotonic() - first_time > DUPLICATE_SECONDS:
            signal.signal(signum, previous[signum])
            os.kill(os.getpid(), signum)

    for signum, before in previous.items():
        if before is not signal.SIG_IGN:  # as of a job in the background, which Ctrl-C is not for
            signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before)


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


def forget_stop(run: str) -> None:
    """Delete the stop file of an earlier training."""
    if is_stop_requested(run):
        filesystem, path = files.file_system(RunPaths(run).stop)
        filesystem.delete_file(path)
