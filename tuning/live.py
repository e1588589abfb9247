"""Progress of a running sweep: a live table on a terminal, log lines elsewhere."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuning.trials import METRIC, Trial, TrialStore, best_first, format_score, format_values

NUM_SHOWN = 8  # trials in the live table
HEADER = ("trial", "state", "values", "epochs", METRIC)
NUM_TEXT_COLUMNS = 3

log = logging.getLogger("tuning")


class SweepDisplay:
    """Live table of a sweep, a context manager. `stream` is stderr by default.

    If the stream is not a terminal, each ended trial is a log line instead.
    """

    def __init__(self, store: TrialStore, num_trials: int, stream: TextIO | None = None) -> None:
        self._store, self._num_trials = store, num_trials
        self._start = time.monotonic()
        console = Console(file=stream, stderr=True)
        draws = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False) if draws else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, trial: Trial) -> None:
        """Show a new report of the trial, or that it has ended."""
        if self._live:
            self._live.update(self._table(), refresh=True)
        elif trial.state != "running":
            log.info("%s; %s", trial_line(trial), self._summary())

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for at, name in enumerate(HEADER):
            is_text = at < NUM_TEXT_COLUMNS
            table.add_column(name, justify="left" if is_text else "right", no_wrap=name != "values")
        for row in table_rows(list(self._store.trials.values()), NUM_SHOWN):
            table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
        return Group(Text(self._summary()), table)

    def _summary(self) -> str:
        """Return `7 of 40 trials: 3 finished, 4 stopped; 312 s`."""
        ended = self._store.ended()
        states = Counter(trial.state for trial in ended)
        by_state = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        seconds = time.monotonic() - self._start
        return (
            f"{len(ended)} of {self._num_trials} trials"
            + (f": {by_state}" if by_state else "")
            + f"; {seconds:,.0f} s"
        )


def trial_line(trial: Trial) -> str:
    """Return the result of an ended trial as one line."""
    if trial.state == "failed":
        return f"trial {trial.number} failed: {trial.cause}"
    return (
        f"trial {trial.number} {trial.state} after {trial.epochs} epochs: validation {METRIC} "
        f"{trial.score:.4f} with {format_values(trial.values)}"
    )


def table_rows(trials: Sequence[Trial], count: int) -> list[list[str]]:
    """Return a row of HEADER for each of the best `count` trials and each running trial."""
    shown = [t for at, t in enumerate(best_first(trials)) if at < count or t.state == "running"]
    return [
        [str(t.number), t.state, format_values(t.values), f"{t.epochs:,}", format_score(t.score)]
        for t in shown
    ]
