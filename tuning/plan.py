"""The values that trial n of a sweep tries.

They are a function of the sweep's seed, of n and, for TPE, of the trials that ended before. No
generator state is stored, so a resumed sweep draws the same values as one that was never killed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import create_trial

from mdsrec.config.tune import TuneConfig
from tuning.space import Params, Values, distributions, grid_points, values_of

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Draw(NamedTuple):
    """Optuna's parameters of a trial, and the values of the experiment's keys made from them."""

    params: Params
    values: Values


class Plan:
    """All trials of a sweep: the grid points times the draws of the other keys.

    Trial n is grid point n mod G of draw n div G, where G is the number of grid points.
    """

    def __init__(self, tune: TuneConfig, seed: int) -> None:
        grid_only = tune.searcher == "grid"
        self._seed, self._searcher = seed, tune.searcher
        self._points = grid_points({k: d for k, d in tune.space.items() if grid_only or d.is_grid})
        self._drawn = {k: d for k, d in tune.space.items() if not (grid_only or d.is_grid)}
        self._key_order = list(tune.space)
        self.num_trials = len(self._points) * (1 if grid_only else tune.trials)

    def draw(self, number: int, ended: Mapping[int, tuple[Params, float]]) -> Draw:
        """Return trial `number`, given the parameters and the score of the ended trials."""
        draw, point = divmod(number, len(self._points))
        params = self._suggest(draw, [ended[n] for n in sorted(ended)]) if self._drawn else {}
        values = {**self._points[point], **values_of(self._drawn, params)}
        return Draw(params, {key: values[key] for key in self._key_order})

    def _suggest(self, draw: int, ended: Sequence[tuple[Params, float]]) -> Params:
        space = distributions(self._drawn)
        seed = int(np.random.SeedSequence([self._seed, draw]).generate_state(1)[0])
        study = optuna.create_study(direction="maximize", sampler=self._sampler(seed))
        if self._searcher == "optuna":
            study.add_trials(
                [create_trial(params=p, distributions=space, value=score) for p, score in ended]
            )
        return study.ask(space).params

    def _sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed) if self._searcher == "optuna" else RandomSampler(seed=seed)
