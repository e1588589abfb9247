"""metrics.json: every figure is a reduction of the ranks table, in sums and counts.

T targets, M metrics, K kinds of a slicing.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evaluation.metrics.bootstrap import Users
from evaluation.metrics.run_metrics import Curve, RankMetrics, SliceMetrics
from evaluation.metrics.slices import Slices
from mdsrec import files, metrics, tables

CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # N of the recall@N curve
SPLITS = ("valid", "test")

Counts = NDArray[np.int64]


class Ranked(NamedTuple):
    """Targets of one split as one channel ranks them."""

    user: Counts  # [T]
    target: Counts  # [T]
    better: Counts  # [T]
    ties: Counts  # [T]
    values: NDArray[np.float64]  # [T, M]


class Means:
    """Means over the targets of many parts, and how far other users' might be from them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._users: Users | None = None
        self._curve = np.zeros(len(CURVE))
        self.targets = 0
        self.tied = 0

    def add(self, part: Ranked) -> None:
        """Targets of users whose other targets, if any, come along."""
        if not len(part.user):
            return
        self.targets += len(part.user)
        self.tied += int((part.ties > 0).sum())
        users = Users.of(part.user, part.values)
        self._users = users if self._users is None else self._users.beside(users)
        self._curve += [metrics.recall(part.better, part.ties, n).sum() for n in CURVE]

    def means(self) -> dict[str, float]:
        if self._users is None:
            return {}
        return dict(zip(self._names, map(float, self._users.means()), strict=True))

    def intervals(self) -> dict[str, list[float]]:
        """95% of each mean, as other users would give it: [low, high]."""
        if self._users is None:
            return {}
        return dict(zip(self._names, self._users.intervals().tolist(), strict=True))

    def curve(self) -> list[float]:
        """recall@N for N in CURVE."""
        return [float(value) for value in self._curve / max(self.targets, 1)]


class KindMeans:
    """Means over the targets of each kind of a slicing."""

    def __init__(self, slices: Slices, names: Sequence[str]) -> None:
        self._slices, self._names = slices, names
        self.targets = np.zeros(len(slices.names), dtype=np.int64)
        self._sums_KM = np.zeros((len(slices.names), len(names)))

    def add(self, part: Ranked) -> None:
        kinds = self._slices.kinds(part.user, part.target)
        self.targets += np.bincount(kinds, minlength=len(self.targets))
        np.add.at(self._sums_KM, kinds, part.values)

    def means(self) -> dict[str, dict[str, float]]:
        """By kind; nothing for one without targets."""
        return {
            kind: dict(zip(self._names, (sums / count).tolist(), strict=True)) if count else {}
            for kind, count, sums in zip(
                self._slices.names, self.targets, self._sums_KM, strict=True
            )
        }


def summarise(
    ranks_uri: str, channels: Sequence[str], cutoffs: Sequence[int], slices: dict[str, Slices]
) -> RankMetrics:
    """Metrics by split and channel, over all targets and over kinds of them."""
    names = [f"{metric}@{n}" for metric in metrics.METRICS for n in cutoffs]
    keys = list(product(SPLITS, channels))
    whole = {key: Means(names) for key in keys}
    kinds = {(*key, name): KindMeans(slices[name], names) for key in keys for name in slices}
    users = 0
    for table in _parts(ranks_uri):
        users += pc.count_distinct(table["user"]).as_py()
        for key in keys:
            part = _selected(table, *key, tuple(cutoffs))
            whole[key].add(part)
            for name in slices:
                kinds[*key, name].add(part)
    return RankMetrics(
        users=users,
        targets={split: whole[split, channels[0]].targets for split in SPLITS},
        split=_by_split(channels, lambda s, c: whole[s, c].means()),
        interval=_by_split(channels, lambda s, c: whole[s, c].intervals()),
        ties=_by_split(channels, lambda s, c: whole[s, c].tied),
        curve=Curve(list(CURVE), _by_split(channels, lambda s, c: whole[s, c].curve())),
        slices=_by_split(
            list(slices),
            lambda split, name: _by_kind({c: kinds[split, c, name] for c in channels}),
        ),
    )


def _by_split(names: Sequence[str], value: Any) -> dict[str, Any]:
    return {split: {name: value(split, name) for name in names} for split in SPLITS}


def _by_kind(of_channel: dict[str, KindMeans]) -> dict[str, SliceMetrics]:
    """Each kind's targets, and its means by channel."""
    means = {channel: kinds.means() for channel, kinds in of_channel.items()}
    first = next(iter(of_channel))
    return {
        kind: SliceMetrics(int(targets), {c: means[c][kind] for c in means})
        for kind, targets in zip(means[first], of_channel[first].targets, strict=True)
    }


def _parts(uri: str) -> Iterator[pa.Table]:
    """The ranks, one file at a time; a user's rows stand in one file."""
    manifest = tables.open_table(uri, "run `python -m evaluation CONFIG`")
    filesystem, _ = files.file_system(uri)
    for path in tables.data_files(uri, manifest):
        yield pq.read_table(path, filesystem=filesystem, partitioning=None)


def _selected(table: pa.Table, split: str, channel: str, cutoffs: tuple[int, ...]) -> Ranked:
    chosen = pc.and_(pc.equal(table["split"], split), pc.equal(table["channel"], channel))
    rows = table.filter(chosen)
    better, ties = rows["better"].to_numpy(), rows["ties"].to_numpy()
    found = metrics.by_event(better, ties, cutoffs)
    return Ranked(
        rows["user"].to_numpy(),
        rows["target"].to_numpy().astype(np.int64),
        better,
        ties,
        np.stack(list(found.values()), axis=1),
    )
