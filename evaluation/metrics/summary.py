"""Reduction of the ranks table to the figures of metrics.json, one part of the table at a time.

T targets, M metrics, S slices of a slicing.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import TypeVar

import numpy as np

from evaluation.metrics.many_users import ManyUsers
from evaluation.metrics.rank_parts import RankPart, RankRows, rank_parts
from evaluation.metrics.run_metrics import Curve, RankMetrics, SliceMetrics
from evaluation.metrics.slices import SliceSums, Slicing
from mdsrec import metrics
from mdsrec.arrays import Floats

CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # N of the recall@N curve
SPLITS = ("valid", "test")

V = TypeVar("V")


class MeanAccumulator:
    """Means and bootstrap intervals over targets that arrive in parts."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._users = ManyUsers()
        self._curve = np.zeros(len(CURVE))
        self.targets = 0
        self.tied = 0

    def add(self, rows: RankRows, values: Floats) -> None:
        """Add a part with the metrics [T, M] of its targets. A user's targets are in one part."""
        if not len(rows.users):
            return
        self.targets += len(rows.users)
        self.tied += int((rows.ties > 0).sum())
        self._users.add(rows.users, values)
        self._curve += [metrics.recall(rows.better, rows.ties, n).sum() for n in CURVE]

    def means_and_intervals(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Return each mean and its 95% interval [low, high]; {} and {} without targets."""
        if not self.targets:
            return {}, {}
        users = self._users.sums()
        means, intervals = users.means().tolist(), users.intervals().tolist()
        return (
            dict(zip(self._names, means, strict=True)),
            dict(zip(self._names, intervals, strict=True)),
        )

    def curve(self) -> list[float]:
        """Return recall@N for N in CURVE."""
        return [float(value) for value in self._curve / max(self.targets, 1)]


def summarize(
    ranks_uri: str, channels: Sequence[str], cutoffs: Sequence[int], slicings: dict[str, Slicing]
) -> RankMetrics:
    """Reduce the ranks table to metrics by split and channel, over all targets and by slice."""
    return summarize_parts(rank_parts(ranks_uri), channels, cutoffs, slicings)


def summarize_parts(
    parts: Iterable[RankPart],
    channels: Sequence[str],
    cutoffs: Sequence[int],
    slicings: dict[str, Slicing],
) -> RankMetrics:
    """Reduce ranks that arrive in parts. All rows of a user must be in the same part."""
    names = [f"{metric}@{n}" for metric in metrics.METRICS for n in cutoffs]
    keys = list(product(SPLITS, channels))
    overall = {key: MeanAccumulator(names) for key in keys}
    sliced = {
        (*key, name): SliceSums(slicing, len(names))
        for key in keys
        for name, slicing in slicings.items()
    }
    users = 0
    for part in parts:
        users += len(np.unique(part.users))
        for key in keys:
            rows = part.select(*key)
            of_metric = metrics.per_event(rows.better, rows.ties, tuple(cutoffs))
            values = np.stack([*of_metric.values()], axis=1)
            overall[key].add(rows, values)
            for name in slicings:
                sliced[*key, name].add(rows.users, rows.targets, values)
    found = {key: of_key.means_and_intervals() for key, of_key in overall.items()}
    return RankMetrics(
        users=users,
        targets={split: overall[split, channels[0]].targets for split in SPLITS},
        split=_by_split(channels, lambda s, c: found[s, c][0]),
        interval=_by_split(channels, lambda s, c: found[s, c][1]),
        ties=_by_split(channels, lambda s, c: overall[s, c].tied),
        curve=Curve(list(CURVE), _by_split(channels, lambda s, c: overall[s, c].curve())),
        slices=_by_split(
            list(slicings),
            lambda split, name: _slice_metrics(
                {c: sliced[split, c, name] for c in channels}, names
            ),
        ),
    )


def _by_split(names: Sequence[str], value: Callable[[str, str], V]) -> dict[str, dict[str, V]]:
    return {split: {name: value(split, name) for name in names} for split in SPLITS}


def _slice_metrics(
    by_channel: dict[str, SliceSums], names: Sequence[str]
) -> dict[str, SliceMetrics]:
    """Return the number of targets of each slice, and its means by channel."""
    means = {channel: sums.means(names) for channel, sums in by_channel.items()}
    first = next(iter(by_channel))
    return {
        name: SliceMetrics(int(targets), {channel: means[channel][name] for channel in means})
        for name, targets in zip(means[first], by_channel[first].targets, strict=True)
    }
