"""Weights of the channels in the whole score, chosen on validation.

A coordinate search maximizes ndcg@10 over the validation targets. It starts from given weights and
tries, one channel after the other, the weights 0 and STEPS times the channel's unit, until no
channel improves. The first channel keeps its weight, because only ratios matter. The unit of a
channel makes its scores spread like those of the first one. Only the channel of seen items may get
a negative weight: users of some data come back to an item, users of other data do not.

The search reads stored scores, so it costs no pass over the model: for each target the scores of
its rivals, which are the items that some channel ranks highest. All other items are taken to score
lower.

C channels, n rivals of a target, T targets.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdsrec import metrics
from mdsrec.arrays import Floats

STEPS = tuple(2 ** (step / 2) for step in range(-10, 11))
MAX_ROUNDS = 10
N = 10  # of ndcg@N

Scores = npt.NDArray[np.float32]


class Rivals(NamedTuple):
    """Scores of the rivals of all targets, relative to the target's, one after the other."""

    differences: Scores  # [sum of n, C], score of the rival minus score of the target
    counts: npt.NDArray[np.int64]  # [T], n of each target

    def num_of(self, which: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Count the rivals of each target that are marked in `which` [sum of n] -> [T]."""
        has_some = self.counts > 0
        starts = (np.cumsum(self.counts) - self.counts)[has_some]
        found = np.zeros(len(self.counts), np.int64)
        if len(starts):
            found[has_some] = np.add.reduceat(which, starts, dtype=np.int64)
        return found


class Found(NamedTuple):
    """Result of a search: weights [C], and the mean ndcg@10 with them."""

    weights: list[float]
    ndcg: float


def search_weights(rivals: Rivals, start: Sequence[float], signed: Collection[int] = ()) -> Found:
    """Return weights, and their ndcg@10, that are at least as good as those of the start.

    Channels in `signed` may get a negative weight.
    """
    units = _units(rivals.differences)
    found = Found([*start], mean_ndcg(rivals, start))
    for _ in range(MAX_ROUNDS):
        before = found.ndcg
        for channel in range(1, len(start)):
            negative = [-step for step in STEPS] if channel in signed else []
            for step in (0.0, *STEPS, *negative):
                weights = [*found.weights]
                weights[channel] = float(step * units[channel] * start[0])
                ndcg = mean_ndcg(rivals, weights)
                if ndcg > found.ndcg:
                    found = Found(weights, ndcg)
        if found.ndcg == before:
            break
    return found


def mean_ndcg(rivals: Rivals, weights: Sequence[float]) -> float:
    """Return the mean ndcg@10 of the targets under these weights."""
    lead = rivals.differences @ np.asarray(weights, np.float32)
    return float(metrics.ndcg(rivals.num_of(lead > 0), rivals.num_of(lead == 0), N).mean())


def _units(differences: Scores) -> Floats:
    """Return for each channel the weight at which its scores spread like the first channel's."""
    spread = np.sqrt(np.square(differences, dtype=np.float64).sum(axis=0))
    units: Floats = np.divide(spread[0], spread, out=np.zeros_like(spread), where=spread > 0)
    return units
