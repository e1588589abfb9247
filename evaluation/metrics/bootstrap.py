"""Bootstrap over users: confidence intervals of mean metrics, and paired differences of two runs.

A resample draws users with replacement and keeps all events of a user together, because these are
not independent. Users with identical sums are stored once with a count, so a resample is one
multinomial draw over the distinct rows, which are few however many users there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from mdsrec.arrays import Counts, Floats

RESAMPLES = 2000
LEVEL = 0.95
P_RESOLUTION = 2 / RESAMPLES  # two-sided: one resample on the other side of 0 gives this p


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
        return cls(*_distinct(sums.astype(np.float64), np.ones(len(sums), dtype=np.int64)))

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """Return the sums of the users of all parts; no user may be in two of them."""
        rows = np.concatenate([part.rows for part in parts])
        return cls(*_distinct(rows, np.concatenate([part.counts for part in parts])))

    def merge(self, others: Self) -> Self:
        """Return the sums of these users and of others; no user may be in both."""
        return self.merged([self, others])

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

    @classmethod
    def of(cls, paired: UserSums) -> Self:
        """Return the difference whose values, a run's minus those of the other, have these sums.

        p is twice the share of resamples whose difference is 0 or on the other side of 0, so it is
        a multiple of P_RESOLUTION. Without such a resample p is only known to be below
        P_RESOLUTION: its value is then half of that, and `p_text` says "< .001".
        """
        resampled = paired.resampled_means
        side = np.minimum((resampled <= 0).mean(axis=0), (resampled >= 0).mean(axis=0))
        p = np.clip(2 * side, P_RESOLUTION / 2, 1)
        return cls(paired.means(), paired.intervals(), p)

    def text(self, metric: int) -> str:
        """Return `+0.0123 [+0.0100, +0.0146] p < .001` for the metric at index `metric`."""
        low, high = self.intervals[metric]
        return f"{self.means[metric]:+.4f} [{low:+.4f}, {high:+.4f}] p {p_text(self.p[metric])}"

    def is_clear(self, metric: int) -> bool:
        """Return whether the interval of the metric at index `metric` leaves out 0."""
        low, high = self.intervals[metric]
        return bool(low > 0 or high < 0)

    def is_worse(self, metric: int) -> bool:
        """Return whether the interval of the metric at index `metric` lies wholly below 0."""
        return bool(self.intervals[metric, 1] < 0)

    def reversed(self) -> Self:
        """Return the difference of the other run from this one."""
        return type(self)(-self.means, -self.intervals[:, ::-1], self.p)

    def words(self, metric: int, baseline: str) -> str:
        """Return `better than demo by .0123 (95% interval .0100 to .0146, p < .001)`.

        A difference whose interval contains 0 is said not to be clear, with its sign.
        """
        mean, (low, high) = self.means[metric], self.intervals[metric]
        p = f"p {p_text(self.p[metric])}"
        if not self.is_clear(metric):
            bounds = f"{short(low, '+')} to {short(high, '+')}"
            return f"not clearly different from {baseline}: {short(mean, '+')} ({bounds}, {p})"
        word = "better" if mean > 0 else "worse"
        ends = " to ".join(short(end) for end in sorted(map(abs, (low, high))))
        return f"{word} than {baseline} by {short(abs(mean))} ({LEVEL:.0%} interval {ends}, {p})"


def difference(users: Counts, values: Floats, baseline: Floats) -> Difference:
    """Compare `values` with `baseline`, both [events, metrics] of the same events of `users`."""
    return Difference.of(UserSums.from_events(users, values - baseline))


def p_text(p: float) -> str:
    """Return a p-value as `.176`, or as `< .001` where the resamples cannot tell it from 0."""
    return f"< {short(P_RESOLUTION, digits=3)}" if p < P_RESOLUTION else short(p, digits=3)


def short(value: float, sign: str = "-", digits: int = 4) -> str:
    """Return a figure without the zero before its point: `.0123`, `-.0031`; with "+" `+.0123`."""
    text = f"{value:{sign}.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _distinct(rows: Floats, counts: Counts) -> tuple[Floats, Counts]:
    """Return the distinct rows, sorted by their first column first, and their counts."""
    order = np.lexsort(rows.T[::-1])
    rows = rows[order]
    is_new = np.ones(len(rows), dtype=bool)
    is_new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    first = np.flatnonzero(is_new)
    return rows[first], np.add.reduceat(counts[order], first)
