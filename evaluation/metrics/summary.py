"""Reduction of the ranks table to the figures of metrics.json, one file of the table at a time.

T targets, M metrics, S slices of a slicing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluation.metrics.bootstrap import UserSums
from evaluation.metrics.run_metrics import Curve, RankMetrics, SliceMetrics
from evaluation.metrics.slices import Slicing
from mdsrec import files, metrics, tables
from mdsrec.arrays import Counts, Floats

CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # N of the recall@N curve
SPLITS = ("valid", "test")

V = TypeVar("V")


class RankedTargets(NamedTuple):
    """Targets of one split, as one channel ranks them."""

    user: Counts  # [T]
    target: Counts  # [T]
    better: Counts  # [T]
    ties: Counts  # [T]
    values: Floats  # [T, M]


class MeanAccumulator:
    """Means and bootstrap intervals over targets that arrive in parts."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._users: UserSums | None = None
        self._curve = np.zeros(len(CURVE))
        self.targets = 0
        self.tied = 0

    def add(self, part: RankedTargets) -> None:
        """Add a part. All targets of a user must be in the same part."""
        if not len(part.user):
            return
        self.targets += len(part.user)
        self.tied += int((part.ties > 0).sum())
        users = UserSums.from_events(part.user, part.values)
        self._users = users if self._users is None else self._users.merge(users)
        self._curve += [metrics.recall(part.better, part.ties, n).sum() for n in CURVE]

    def means(self) -> dict[str, float]:
        if self._users is None:
            return {}
        return dict(zip(self._names, map(float, self._users.means()), strict=True))

    def intervals(self) -> dict[str, list[float]]:
        """Return the 95% interval [low, high] of each mean."""
        if self._users is None:
            return {}
        return dict(zip(self._names, self._users.intervals().tolist(), strict=True))

    def curve(self) -> list[float]:
        """Return recall@N for N in CURVE."""
        return [float(value) for value in self._curve / max(self.targets, 1)]


class SliceAccumulator:
    """Means over the targets of each slice of a slicing."""

    def __init__(self, slicing: Slicing, names: Sequence[str]) -> None:
        self._slicing, self._names = slicing, names
        self.targets = np.zeros(len(slicing.names), dtype=np.int64)
        self._sums_SM = np.zeros((len(slicing.names), len(names)))

    def add(self, part: RankedTargets) -> None:
        slices = self._slicing.slices(part.user, part.target)
        self.targets += np.bincount(slices, minlength=len(self.targets))
        np.add.at(self._sums_SM, slices, part.values)

    def means(self) -> dict[str, dict[str, float]]:
        """Return the means by slice; {} for a slice without targets."""
        return {
            name: dict(zip(self._names, (sums / count).tolist(), strict=True)) if count else {}
            for name, count, sums in zip(
                self._slicing.names, self.targets, self._sums_SM, strict=True
            )
        }


def summarize(
    ranks_uri: str, channels: Sequence[str], cutoffs: Sequence[int], slicings: dict[str, Slicing]
) -> RankMetrics:
    """Reduce the ranks table to metrics by split and channel, over all targets and by slice."""
    return summarize_parts(_read_parts(ranks_uri), channels, cutoffs, slicings)


def summarize_parts(
    parts: Iterable[pa.Table],
    channels: Sequence[str],
    cutoffs: Sequence[int],
    slicings: dict[str, Slicing],
) -> RankMetrics:
    """Reduce ranks that arrive in parts. All rows of a user must be in the same part."""
    names = [f"{metric}@{n}" for metric in metrics.METRICS for n in cutoffs]
    keys = list(product(SPLITS, channels))
    overall = {key: MeanAccumulator(names) for key in keys}
    sliced = {
        (*key, name): SliceAccumulator(slicing, names)
        for key in keys
        for name, slicing in slicings.items()
    }
    users = 0
    for table in parts:
        users += pc.count_distinct(table["user"]).as_py()
        for key in keys:
            part = _select(table, *key, tuple(cutoffs))
            overall[key].add(part)
            for name in slicings:
                sliced[*key, name].add(part)
    return RankMetrics(
        users=users,
        targets={split: overall[split, channels[0]].targets for split in SPLITS},
        split=_by_split(channels, lambda s, c: overall[s, c].means()),
        interval=_by_split(channels, lambda s, c: overall[s, c].intervals()),
        ties=_by_split(channels, lambda s, c: overall[s, c].tied),
        curve=Curve(list(CURVE), _by_split(channels, lambda s, c: overall[s, c].curve())),
        slices=_by_split(
            list(slicings),
            lambda split, name: _slice_metrics({c: sliced[split, c, name] for c in channels}),
        ),
    )


def _by_split(names: Sequence[str], value: Callable[[str, str], V]) -> dict[str, dict[str, V]]:
    return {split: {name: value(split, name) for name in names} for split in SPLITS}


def _slice_metrics(by_channel: dict[str, SliceAccumulator]) -> dict[str, SliceMetrics]:
    """Return the number of targets of each slice, and its means by channel."""
    means = {channel: slices.means() for channel, slices in by_channel.items()}
    first = next(iter(by_channel))
    return {
        name: SliceMetrics(int(targets), {channel: means[channel][name] for channel in means})
        for name, targets in zip(means[first], by_channel[first].targets, strict=True)
    }


def _read_parts(uri: str) -> Iterator[pa.Table]:
    """Yield the ranks one file at a time; all rows of a user are in the same file."""
    manifest = tables.open_table(uri, "run `mdsrec evaluate CONFIG`")
    filesystem, _ = files.file_system(uri)
    for path in tables.data_files(uri, manifest):
        yield pq.read_table(path, filesystem=filesystem, partitioning=None)


def _select(table: pa.Table, split: str, channel: str, cutoffs: tuple[int, ...]) -> RankedTargets:
    selected = pc.and_(pc.equal(table["split"], split), pc.equal(table["channel"], channel))
    rows = table.filter(selected)
    better, ties = rows["better"].to_numpy(), rows["ties"].to_numpy()
    values = metrics.per_event(better, ties, cutoffs)
    return RankedTargets(
        rows["user"].to_numpy(),
        rows["target"].to_numpy().astype(np.int64),
        better,
        ties,
        np.stack(list(values.values()), axis=1),
    )
