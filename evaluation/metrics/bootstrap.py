"""How far a mean over users may be from what other users would give: the bootstrap, over users.

A user's events are drawn together. Users with equal figures are counted, not kept apart, so a
resample draws counts of the few figures that there are, however many users have them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Users:
    """Figures of many users: row r is what `counts[r]` of them have, [targets, sum of each metric].

    Targets come first, so that a mean is over events.
    """

    rows: Floats  # [distinct, 1 + metrics]
    counts: Ints  # [distinct]

    @classmethod
    def of(cls, users: Ints, values: Floats) -> Self:
        """From events: `users` [events], whoever they are of; `values` [events, metrics]."""
        _, place = np.unique(users, return_inverse=True)
        columns = [np.ones(len(users)), *values.T]
        sums = np.stack([np.bincount(place, weights=c) for c in columns], axis=1)
        rows, counts = np.unique(sums, axis=0, return_counts=True)
        return cls(rows.astype(np.float64), counts.astype(np.int64))

    def beside(self, others: Self) -> Self:
        """These users and others."""
        rows, place = np.unique(
            np.concatenate([self.rows, others.rows]), axis=0, return_inverse=True
        )
        counts = np.bincount(place.ravel(), weights=np.concatenate([self.counts, others.counts]))
        return type(self)(rows, counts.astype(np.int64))

    def means(self) -> Floats:
        """Of each metric over all events -> [metrics]."""
        sums: Floats = self.counts @ self.rows
        means: Floats = sums[1:] / sums[0]
        return means

    @cached_property
    def resampled(self) -> Floats:
        """Means of as many users drawn with replacement, always alike -> [RESAMPLES, metrics]."""
        generator, total = np.random.default_rng(0), int(self.counts.sum())
        drawn = (generator.multinomial(total, self.counts / total) for _ in range(RESAMPLES))
        sums = np.stack([counts @ self.rows for counts in drawn])
        means: Floats = sums[:, 1:] / sums[:, :1]
        return means

    def intervals(self) -> Floats:
        """The middle LEVEL of the resamples -> [metrics, 2]."""
        return _middle(self.resampled)


@dataclass(frozen=True)
class Difference:
    """What one run has more than another on the same users, in each metric."""

    means: Floats  # [metrics]
    intervals: Floats  # [metrics, 2]
    p: Floats  # [metrics], two-sided: how often resamples fall on the other side of 0

    def words(self, metric: int) -> str:
        low, high = self.intervals[metric]
        return f"{self.means[metric]:+.4f} [{low:+.4f}, {high:+.4f}] p {self.p[metric]:.3f}"


def difference(users: Ints, values: Floats, of_other: Floats) -> Difference:
    """`values` less `of_other`, both [events, metrics] of the same events of `users`."""
    paired = Users.of(users, values - of_other)
    side = np.minimum((paired.resampled <= 0).mean(axis=0), (paired.resampled >= 0).mean(axis=0))
    p = np.clip(2 * side, 1 / RESAMPLES, 1)
    return Difference(paired.means(), paired.intervals(), p)


def _middle(resampled: Floats) -> Floats:
    edge = (1 - LEVEL) / 2
    found: Floats = np.quantile(resampled, [edge, 1 - edge], axis=0).T
    return found
