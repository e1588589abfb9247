"""Signals that interrupt the steps of an epoch, on the side of the workers.

The ranks combine their signals after every step, so all of them act after the same step.
"""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from mdsrec.files import STORAGE_ERRORS
from training.lifecycle.lease import Attempt, is_superseded
from training.lifecycle.stopping import is_stop_requested

STORAGE_SECONDS = 1.0  # between checks of the stop file and of the lease
LOG_SECONDS = 30.0  # between progress lines within an epoch

_got_sigterm = threading.Event()


def catch_sigterm() -> None:
    """Install a handler that records the first SIGTERM for `sigterm_received`.

    A second SIGTERM gets the handler that was installed before. Call this in the main thread.
    """
    previous = signal.getsignal(signal.SIGTERM)

    def handle(*_: Any) -> None:
        _got_sigterm.set()
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)

    signal.signal(signal.SIGTERM, handle)


def sigterm_received() -> bool:
    """Return True if this process got a SIGTERM after `catch_sigterm`."""
    return _got_sigterm.is_set()


class Signals(NamedTuple):
    """Signals raised after a step, by one rank or by any of them."""

    log: bool = False  # a progress line is due
    save: bool = False  # a checkpoint is due
    leave: bool = False  # a worker's node leaves the cluster: save, and start again without it
    stop: bool = False  # a stop is requested: save and end
    superseded: bool = False  # another attempt holds the lease: end without a write

    @property
    def end(self) -> bool:
        return self.leave or self.stop


class SignalSource:
    """The signals that this rank raises. Only rank 0 checks the clock and the files of the run.

    `attempt` is the fencing token of this training. None means that no other driver can train the
    run.
    """

    def __init__(
        self,
        run: str,
        rank: int,
        checkpoint_minutes: float,
        is_leaving: Callable[[], bool] = sigterm_received,
        attempt: Attempt | None = None,
    ) -> None:
        self._run, self._is_first, self._attempt = run, rank == 0, attempt
        self._save_seconds = 60 * checkpoint_minutes
        self._is_leaving = is_leaving
        self._last_line = self._last_save = time.monotonic()
        self._stop, self._superseded = threading.Event(), threading.Event()
        if self._is_first:
            threading.Thread(target=self._watch_storage, name="signals", daemon=True).start()

    def _watch_storage(self) -> None:
        while not self._stop.is_set() and not self._superseded.is_set():
            self.check_storage()
            time.sleep(STORAGE_SECONDS)

    def check_storage(self) -> None:
        """Check the lease and the stop file now, on rank 0."""
        if not self._is_first:
            return
        with suppress(*STORAGE_ERRORS):  # storage may be back at the next check
            if self._attempt is not None and is_superseded(self._run, self._attempt):
                self._superseded.set()
            elif is_stop_requested(self._run):
                self._stop.set()

    def current(self) -> Signals:
        """Return the signals that this rank raises now."""
        now, first = time.monotonic(), self._is_first
        return Signals(
            log=first and now - self._last_line >= LOG_SECONDS,
            save=first and now - self._last_save >= self._save_seconds,
            leave=self._is_leaving(),
            stop=self._stop.is_set(),
            superseded=self._superseded.is_set(),
        )

    def restart_log_timer(self) -> None:
        self._last_line = time.monotonic()

    def restart_save_timer(self) -> None:
        self._last_save = time.monotonic()
