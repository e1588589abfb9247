"""What interrupts the steps of an epoch; every rank hears it after the same step."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from training.lifecycle.lease import Attempt, is_given_up
from training.lifecycle.stopping import OUT_OF_REACH, is_asked, node_leaves

LOOK_EVERY = 1.0  # seconds between looks for the file that asks to stop
LINE_EVERY = 30.0  # seconds between lines inside an epoch


class Calls(NamedTuple):
    line: bool  # say how far the epoch is
    save: bool
    leave: bool  # save and start again: a worker's node goes
    stop: bool  # save and end
    lost: bool  # end, and write nothing: this attempt was given up

    @property
    def end(self) -> bool:
        return self.leave or self.stop


NOTHING = Calls(False, False, False, False, False)


class Clock:
    """What this rank calls for; time and what stands in the run's storage are rank 0's to look at.

    `attempt` is what this rank writes for, none where no other could write the run.
    """

    def __init__(
        self,
        run: str,
        rank: int,
        checkpoint_minutes: float,
        leaves: Callable[[], bool] = node_leaves,
        attempt: Attempt | None = None,
    ) -> None:
        self._run, self._is_first, self._attempt = run, rank == 0, attempt
        self._save_every = 60 * checkpoint_minutes
        self._leaves = leaves
        self._said = self._saved = time.monotonic()
        self._stop, self._lost = threading.Event(), threading.Event()
        if self._is_first:
            threading.Thread(target=self._keep_looking, name="stop", daemon=True).start()

    def _keep_looking(self) -> None:
        while not self._stop.is_set() and not self._lost.is_set():
            self.look()
            time.sleep(LOOK_EVERY)

    def look(self) -> None:
        """What the run's storage says now, on rank 0."""
        if not self._is_first:
            return
        # Storage that is out of reach may be back when this looks again.
        with suppress(*OUT_OF_REACH):
            if self._attempt is not None and is_given_up(self._run, self._attempt):
                self._lost.set()
            elif is_asked(self._run):
                self._stop.set()

    def calls(self) -> Calls:
        now, first = time.monotonic(), self._is_first
        return Calls(
            line=first and now - self._said >= LINE_EVERY,
            save=first and now - self._saved >= self._save_every,
            leave=self._leaves(),
            stop=self._stop.is_set(),
            lost=self._lost.is_set(),
        )

    def said(self) -> None:
        self._said = time.monotonic()

    def saved(self) -> None:
        self._saved = time.monotonic()
