"""Asynchronous successive halving (ASHA, arXiv 1810.05934) that can be resumed.

It is Ray Tune's scheduler with two changes: trials are identified by their number instead of Ray's
id, and the reports from before a kill are replayed in their order.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from mdsrec.config.tune import TuneConfig
from training.distributed.ray_internals import rung_milestones
from tuning.trials import METRIC

ReportHistory = Iterable[tuple[int, int, float]]  # trial number, epoch from 0, best METRIC so far


class ResumableASHA(ASHAScheduler):  # type: ignore[misc]
    """ASHA over epochs. `history` holds the reports from before the sweep was resumed.

    Rungs are `grace_epochs` times powers of `reduction`, below `max_epochs`: a trial that reaches
    the last epoch is not stopped there. `stopped` holds the numbers of the trials it stopped.
    """

    def __init__(self, tune: TuneConfig, max_epochs: int, history: ReportHistory) -> None:
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
        added = set()
        for number, epoch, value in history:
            if number not in added:
                added.add(number)
                super().on_trial_add(None, _identified_by(number))
            self._add_report(number, epoch, value)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # metric and mode are fixed in __init__

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _identified_by(trial.config["number"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "cause" in result:
            return str(
                TrialScheduler.CONTINUE
            )  # the trial has failed and ends without being stopped
        return self._add_report(trial.config["number"], result["epoch"], result[METRIC])

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Do nothing: the rungs already hold every report of the trial."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Do nothing, as in `on_trial_complete`."""

    def _add_report(self, number: int, epoch: int, value: float) -> str:
        """Record the trial's best value so far and return the decision: CONTINUE or STOP."""
        best = self._best[number] = max(value, self._best.get(number, value))
        result = {"epochs": epoch + 1, METRIC: best}
        action: str = super().on_trial_result(None, _identified_by(number), result)
        if action == TrialScheduler.STOP:
            self.stopped.add(number)
        return action

    def rungs(self) -> list[float]:
        """Return the numbers of epochs after which trials are compared, in ascending order."""
        return rung_milestones(self)


def _identified_by(number: int) -> SimpleNamespace:
    return SimpleNamespace(trial_id=number)
