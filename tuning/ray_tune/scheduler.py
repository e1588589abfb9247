"""Asynchronous successive halving (ASHA, arXiv 1810.05934) as Ray Tune has it, for a sweep that may
have been killed: trials are known by their number, and what was reported before is told first, in
its order.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from mdsrec.config.tune import TuneConfig
from tuning.trials import METRIC

Seen = Iterable[tuple[int, int, float]]


class Halving(ASHAScheduler):  # type: ignore[misc]
    """`seen` holds number, epoch (from 0) and the best metric so far of every report.

    Rungs are `grace_epochs` times powers of `reduction`, below `max_epochs`: who reaches the last
    epoch is not stopped there. `stopped` are the numbers of those that are.
    """

    def __init__(self, tune: TuneConfig, max_epochs: int, seen: Seen) -> None:
        super().__init__(
            time_attr="epochs",
            metric=METRIC,
            mode="max",
            max_t=max(max_epochs - 1, tune.grace_epochs),
            grace_period=tune.grace_epochs,
            reduction_factor=tune.reduction,
            stop_last_trials=False,
        )
        self.stopped: set[int] = set()
        self._best: dict[int, float] = {}
        known = set()
        for number, epoch, value in seen:
            if number not in known:
                known.add(number)
                super().on_trial_add(None, _known_as(number))
            self._told(number, epoch, value)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # they are this class's own

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _known_as(trial.config["number"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "cause" in result:
            return str(TrialScheduler.CONTINUE)  # it failed, so it ends by itself
        return self._told(trial.config["number"], result["epoch"], result[METRIC])

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """What it reported is in its rungs already."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """As above."""

    def _told(self, number: int, epoch: int, value: float) -> str:
        best = self._best[number] = max(value, self._best.get(number, value))
        result = {"epochs": epoch + 1, METRIC: best}
        action: str = super().on_trial_result(None, _known_as(number), result)
        if action == TrialScheduler.STOP:
            self.stopped.add(number)
        return action

    def rungs(self) -> list[float]:
        """In epochs, the first the first."""
        return sorted(milestone for milestone, _ in self._brackets[0]._rungs)


def _known_as(number: int) -> SimpleNamespace:
    return SimpleNamespace(trial_id=number)
