"""Metrics of each test event of several runs side by side, the input of comparisons.

The runs are read together, in parts of bounded size.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np

from evaluation.metrics.rank_parts import EVALUATE, rank_parts
from mdsrec import metrics
from mdsrec.arrays import Counts, Floats
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths


class Ranking(NamedTuple):
    """A ranking of the test events: a run, and one of its channels."""

    run: str
    channel: str = "all"  # the whole score (Eq. 22)
    ranks: str | None = None  # fingerprint of the ranks table; None: of any


class Events(NamedTuple):
    """Test events by user, then time."""

    users: Counts  # [events]
    targets: Counts  # [events], items
    values: Floats  # [events, metrics]

    def split_at(self, count: int) -> tuple[Self, Self]:
        """Return the first `count` events, and the others."""
        parts = slice(count), slice(count, None)
        first, others = (type(self)(self.users[p], self.targets[p], self.values[p]) for p in parts)
        return first, others

    def are_those_of(self, other: "Events") -> bool:
        """Return whether another ranking's events are the same."""
        same_users = np.array_equal(self.users, other.users)
        return same_users and np.array_equal(self.targets, other.targets)


def metric_names(cutoffs: Sequence[int]) -> list[str]:
    """Return the names of the metrics, as recall@10, in the order of `Events.values`."""
    return [f"{metric}@{n}" for metric in metrics.METRICS for n in cutoffs]


def aligned_events(
    rankings: Sequence[Ranking], cutoffs: tuple[int, ...]
) -> Iterator[tuple[Events, ...]]:
    """Yield the metrics of all test events, for each ranking, in parts of the same users.

    InputError if a run has no ranks table, another one than its ranking names, or other test events
    than the first.
    """
    streams = [_events(ranking, cutoffs) for ranking in rankings]
    parts = [next(stream, None) for stream in streams]
    while any(parts):
        present = [part for part in parts if part]
        last = min(int(part.users[-1]) for part in present)
        common = []
        for number, part in enumerate(parts):
            count = int(np.searchsorted(part.users, last, side="right")) if part else 0
            if part is None or not count:
                raise _other_events(rankings, number)
            done, left = part.split_at(count)
            common.append(done)
            parts[number] = left if len(left.users) else next(streams[number], None)
        for number, events in enumerate(common):
            if not events.are_those_of(common[0]):
                raise _other_events(rankings, number)
        yield tuple(common)


def all_events(ranking: Ranking, cutoffs: tuple[int, ...]) -> Events:
    """Return all test events of a ranking at once, for data that fits into memory."""
    users, targets, values = zip(
        *(part for (part,) in aligned_events([ranking], cutoffs)), strict=True
    )
    return Events(np.concatenate(users), np.concatenate(targets), np.concatenate(values))


def _events(ranking: Ranking, cutoffs: tuple[int, ...]) -> Iterator[Events]:
    """Yield the test events of a ranking in parts; all events of a user are in the same part."""
    for part in rank_parts(RunPaths(ranking.run).ranks, ranking.ranks):
        rows = part.select("test", ranking.channel)
        if len(rows.users):
            values = metrics.per_event(rows.better, rows.ties, cutoffs)
            yield Events(rows.users, rows.targets, np.stack([*values.values()], axis=1))


def _other_events(rankings: Sequence[Ranking], number: int) -> InputError:
    first, other = rankings[0].run, rankings[number].run
    return InputError(f"{other}: its test events differ from those of {first}: {EVALUATE} again")
