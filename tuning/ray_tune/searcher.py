"""What Ray Tune tries next: trials that were under way, then those that the plan draws."""

import logging
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from mdsrec.errors import InputError
from tuning.plan import Plan
from tuning.trials import METRIC, Records, Trial

Config = dict[str, Any]

log = logging.getLogger("tuning")


class PlannedSearch(Searcher):  # type: ignore[misc]
    """`config_of` makes of a trial what its process is told."""

    def __init__(self, plan: Plan, records: Records, config_of: Callable[[Trial], Config]) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._plan, self._records, self._config_of = plan, records, config_of
        known = records.trials
        self._left = [n for n in range(plan.num_trials) if n not in known or is_open(known[n])]

    @property
    def num_left(self) -> int:
        return len(self._left)

    def suggest(self, trial_id: str) -> Any:
        while self._left:
            number = self._left.pop(0)
            trial = self._records.trials.get(number) or self._drawn(number)
            config = None
            try:
                config = self._config_of(trial)
            except InputError as error:  # values that do not go together
                trial.state, trial.cause = "failed", str(error)
                log.warning("trial %d failed: %s", number, error)
            self._records.save(trial)
            if config:
                return config
        return Searcher.FINISHED

    def _drawn(self, number: int) -> Trial:
        ended = {t.number: (t.params, t.best) for t in self._records.ended() if t.best == t.best}
        return Trial(number, *self._plan.draw(number, ended))

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: Config, **spec: Any
    ) -> bool:
        return True  # they are this class's own

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """What came of it stands in the records."""

    def save(self, checkpoint_path: str) -> None:
        """The records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """As above."""


def is_open(trial: Trial) -> bool:
    return trial.state == "running"
