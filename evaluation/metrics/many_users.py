"""Sums of metrics per user, of users that arrive in parts, in bounded memory.

Distinct sums are few: most users have one test event, whose metrics follow from a rank up to the
largest cutoff. Up to MOST_ROWS distinct ones are kept and nothing is lost. Beyond, every user is
dealt to one of GROUPS groups at random, and a group counts as a user from then on. Resampling
groups instead of users leaves the mean as it is and estimates the same variance; the relative
error of an interval's width is about sqrt(1 / (2 GROUPS)), half a percent.
"""

import numpy as np

from evaluation.metrics.bootstrap import UserSums
from mdsrec.arrays import Counts, Floats

MOST_ROWS = 1 << 17  # more than a data set of 100,000 interactions has users
GROUPS = 1 << 14
PENDING_ROWS = 1 << 14  # merged together
DEALT = 1 << 20  # users at a time


class ManyUsers:
    """The sums of all users so far. All events of a user must be in the same part."""

    def __init__(self) -> None:
        self._parts: list[UserSums] = []
        self._pending = 0
        self._merged: UserSums | None = None
        self._groups: Floats | None = None
        self._generator = np.random.default_rng(0)

    def add(self, users: Counts, values: Floats) -> None:
        """Add the events of a part: `users` [events], `values` [events, metrics]."""
        if not len(users):
            return
        part = UserSums.from_events(users, values)
        if self._groups is not None:
            self._deal(part)
            return
        self._parts.append(part)
        self._pending += len(part.counts)
        if self._pending > max(PENDING_ROWS, len(self._merged.counts) if self._merged else 0):
            self._merge()

    def sums(self) -> UserSums:
        """Return the sums of all users, or of all groups of them. There must be events."""
        self._merge()
        if self._groups is not None:
            return UserSums(self._groups, np.ones(GROUPS, dtype=np.int64))
        assert self._merged is not None
        return self._merged

    def _merge(self) -> None:
        parts = [*([self._merged] if self._merged else []), *self._parts]
        self._parts, self._pending = [], 0
        self._merged = UserSums.merged(parts) if parts else None
        if self._merged and len(self._merged.counts) > MOST_ROWS:
            self._groups = np.zeros((GROUPS, self._merged.rows.shape[1]))
            self._deal(self._merged)
            self._merged = None

    def _deal(self, users: UserSums) -> None:
        """Add every user to a group at random."""
        assert self._groups is not None
        ends = np.cumsum(users.counts)
        for first in range(0, int(ends[-1]), DEALT):
            places = np.arange(first, min(first + DEALT, int(ends[-1])))
            row = np.searchsorted(ends, places, side="right")
            group = self._generator.integers(GROUPS, size=len(row))
            for column, values in enumerate(users.rows.T):
                self._groups[:, column] += np.bincount(group, values[row], minlength=GROUPS)
