"""Searcher for Ray Tune: first the trials that were running or failed, then the plan's others."""

import logging
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from mdsrec.errors import InputError
from tuning.plan import Plan
from tuning.trials import METRIC, Trial, TrialStore

Config = dict[str, Any]

log = logging.getLogger("tuning")


class PlanSearcher(Searcher):  # type: ignore[misc]
    """Suggests the trials of a plan that have not ended, and those that failed in earlier calls.

    `trial_config` makes the argument of a trial's process. If it raises InputError, because the
    values exclude each other, the trial is recorded as failed and the next one is suggested.
    """

    def __init__(
        self, plan: Plan, store: TrialStore, trial_config: Callable[[Trial], Config]
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._plan, self._store, self._trial_config = plan, store, trial_config
        known = store.trials
        begun = sorted(n for n, trial in known.items() if trial.state in ("running", "failed"))
        self._left = begun + [n for n in range(plan.num_trials) if n not in known]

    @property
    def num_left(self) -> int:
        return len(self._left)

    def suggest(self, trial_id: str) -> Any:
        while self._left:
            number = self._left.pop(0)
            trial = self._store.trials.get(number) or self._draw(number)
            if trial.state == "failed":
                trial.state, trial.retries = "running", trial.retries + 1
            config = None
            try:
                config = self._trial_config(trial)
            except InputError as error:
                trial.state, trial.cause = "failed", str(error)
                log.warning("trial %d failed: %s", number, error)
            self._store.save(trial)
            if config:
                return config
        return Searcher.FINISHED

    def _draw(self, number: int) -> Trial:
        ended = {t.number: (t.params, t.score) for t in self._store.ended() if t.has_score}
        return Trial(number, *self._plan.draw(number, ended))

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: Config, **spec: Any
    ) -> bool:
        return True  # metric and mode are fixed in __init__

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: `TrialRecorder` writes the result to the store."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the files of the store are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, as in `save`."""
