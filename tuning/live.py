"""A sweep while it runs: a table that is drawn anew on a terminal, lines elsewhere."""

import logging
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, TextIO

from tuning.trials import METRIC, Records, Trial

SHOWN = 8  # trials in the table

log = logging.getLogger("tuning")


class Live:
    """Call it with the trial that something is new of."""

    def __init__(self, records: Records, num_trials: int, stream: TextIO = sys.stderr) -> None:
        self._records, self._num_trials, self._stream = records, num_trials, stream
        self._drawn, self._began = 0, time.monotonic()

    def __call__(self, trial: Trial) -> None:
        if self._stream.isatty():
            self._draw()
        elif trial.state != "running":
            log.info("%s; %s", line_of(trial), self._counted())

    def _draw(self) -> None:
        columns = shutil.get_terminal_size().columns - 1
        lines = [self._counted(), *table(list(self._records.trials.values()), SHOWN)]
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        text = "".join(f"\x1b[2K{line[:columns]}\n" for line in lines)
        self._stream.write(f"{up}{text}\x1b[J")
        self._stream.flush()
        self._drawn = len(lines)

    def _counted(self) -> str:
        """7 of 40 trials: 3 finished, 4 stopped; 312 s"""
        ended = self._records.ended()
        states = Counter(trial.state for trial in ended)
        by_state = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        seconds = time.monotonic() - self._began
        return (
            f"{len(ended)} of {self._num_trials} trials"
            + (f": {by_state}" if by_state else "")
            + f"; {seconds:,.0f} s"
        )


def line_of(trial: Trial) -> str:
    """What came of a trial, in a line."""
    if trial.state == "failed":
        return f"trial {trial.number} failed: {trial.cause}"
    return (
        f"trial {trial.number} {trial.state} after {trial.epochs} epochs: valid {METRIC} "
        f"{trial.best:.4f} with {in_words(trial.values)}"
    )


def table(trials: Sequence[Trial], count: int) -> list[str]:
    """The best `count` trials, and those that run."""
    ranked = sorted(trials, key=lambda t: (-t.best if t.best == t.best else 1.0, t.number))
    shown = [t for at, t in enumerate(ranked) if at < count or t.state == "running"]
    rows = [
        f"{t.number:>5}  {t.state:<8}  {t.epochs:>6}  {figure(t.best)}  {in_words(t.values)}"
        for t in shown
    ]
    return [f"trial  state     epochs  {METRIC}  values", *rows]


def figure(value: float) -> str:
    return f"{value:7.4f}" if value == value else "      -"


def in_words(values: dict[str, Any]) -> str:
    """num_neighbors 10, rho text 0.3 image 0.7"""
    return ", ".join(f"{key.split('.', 1)[1]} {_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {share:g}" for name, share in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
