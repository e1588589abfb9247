"""What trial n of a sweep tries: a function of the seed, of n and, for TPE, of what ended before.

No generator's state is kept, so a sweep that goes on draws what one never killed would.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import create_trial

from mdsrec.config.tune import TuneConfig
from tuning.space import Params, Values, distributions, points, values_of

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Draw(NamedTuple):
    """A trial's parameters, and the values of the experiment's keys that they mean."""

    params: Params
    values: Values


class Plan:
    def __init__(self, tune: TuneConfig, seed: int) -> None:
        of_all = tune.searcher == "grid"
        self._seed, self._searcher = seed, tune.searcher
        self._points = points({k: d for k, d in tune.space.items() if of_all or d.is_grid})
        self._drawn = {k: d for k, d in tune.space.items() if not (of_all or d.is_grid)}
        self._order = list(tune.space)
        self.num_trials = len(self._points) * (1 if of_all else tune.trials)

    def draw(self, number: int, ended: Mapping[int, tuple[Params, float]]) -> Draw:
        """Trial `number`, where the trials in `ended` had these parameters and this metric."""
        draw, point = divmod(number, len(self._points))
        params = self._suggested(draw, [ended[n] for n in sorted(ended)]) if self._drawn else {}
        values = {**self._points[point], **values_of(self._drawn, params)}
        return Draw(params, {key: values[key] for key in self._order})

    def _suggested(self, draw: int, ended: Sequence[tuple[Params, float]]) -> Params:
        of = distributions(self._drawn)
        seed = int(np.random.SeedSequence([self._seed, draw]).generate_state(1)[0])
        study = optuna.create_study(direction="maximize", sampler=self._sampler(seed))
        if self._searcher == "optuna":
            study.add_trials(
                [create_trial(params=p, distributions=of, value=value) for p, value in ended]
            )
        return study.ask(of).params

    def _sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed) if self._searcher == "optuna" else RandomSampler(seed=seed)
