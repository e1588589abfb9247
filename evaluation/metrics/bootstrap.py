"""Bootstrap over users: confidence intervals of mean metrics, and paired differences of two runs.

A resample draws users with replacement and keeps all events of a user together, because these are
not independent. Users with identical sums are stored once with a count, so a resample is one
multinomial draw over the distinct rows, which are few however many users there are.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from mdsrec.arrays import Counts, Floats

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class UserSums:
    """Sums of metrics per user: `counts[r]` users have the sums `rows[r]`.

    A row is [number of events, sum of each metric]. The first column makes means per event.
    """

    rows: Floats  # [distinct rows, 1 + metrics]
    counts: Counts  # [distinct rows]

    @classmethod
    def from_events(cls, users: Counts, values: Floats) -> Self:
        """Sum over the events of each user: `users` [events], `values` [events, metrics]."""
        _, user_index = np.unique(users, return_inverse=True)
        columns = [np.ones(len(users)), *values.T]
        sums = np.stack([np.bincount(user_index, weights=c) for c in columns], axis=1)
        rows, counts = np.unique(sums, axis=0, return_counts=True)
        return cls(rows.astype(np.float64), counts.astype(np.int64))

    def merge(self, others: Self) -> Self:
        """Return the sums of these users and of others; no user may be in both."""
        rows, row_index = np.unique(
            np.concatenate([self.rows, others.rows]), axis=0, return_inverse=True
        )
        counts = np.bincount(
            row_index.ravel(), weights=np.concatenate([self.counts, others.counts])
        )
        return type(self)(rows, counts.astype(np.int64))

    def means(self) -> Floats:
        """Return the mean of each metric over all events -> [metrics]."""
        sums: Floats = self.counts @ self.rows
        means: Floats = sums[1:] / sums[0]
        return means

    @cached_property
    def resampled_means(self) -> Floats:
        """Means of RESAMPLES resamples -> [RESAMPLES, metrics]. The seed is fixed."""
        generator, total = np.random.default_rng(0), int(self.counts.sum())
        draws = (generator.multinomial(total, self.counts / total) for _ in range(RESAMPLES))
        sums = np.stack([counts @ self.rows for counts in draws])
        means: Floats = sums[:, 1:] / sums[:, :1]
        return means

    def intervals(self) -> Floats:
        """Return the percentile interval of each mean at LEVEL -> [metrics, 2]."""
        edge = (1 - LEVEL) / 2
        bounds: Floats = np.quantile(self.resampled_means, [edge, 1 - edge], axis=0).T
        return bounds


@dataclass(frozen=True)
class Difference:
    """Metrics of one run minus those of another on the same events."""

    means: Floats  # [metrics]
    intervals: Floats  # [metrics, 2]
    p: Floats  # [metrics], two-sided bootstrap p-value of a difference of 0

    def text(self, metric: int) -> str:
        """Return `+0.0123 [+0.0100, +0.0146] p 0.001` for the metric at index `metric`."""
        low, high = self.intervals[metric]
        return f"{self.means[metric]:+.4f} [{low:+.4f}, {high:+.4f}] p {self.p[metric]:.3f}"


def difference(users: Counts, values: Floats, baseline: Floats) -> Difference:
    """Compare `values` with `baseline`, both [events, metrics] of the same events of `users`."""
    paired = UserSums.from_events(users, values - baseline)
    resampled = paired.resampled_means
    side = np.minimum((resampled <= 0).mean(axis=0), (resampled >= 0).mean(axis=0))
    p = np.clip(2 * side, 1 / RESAMPLES, 1)
    return Difference(paired.means(), paired.intervals(), p)
