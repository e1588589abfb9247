"""metrics.json: every figure is a reduction of the ranks table, in sums and counts."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evaluation.intervals import Users
from evaluation.slices import Slices
from mdsrec import files, metrics, tables

CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # N of the recall@N curve
SPLITS = ("valid", "test")

Counts = NDArray[np.int64]


class Means:
    """Means over the targets of many parts."""

    def __init__(self, cutoffs: Sequence[int]) -> None:
        self._cutoffs = tuple(cutoffs)
        self._names: list[str] = []
        self._users: Users | None = None
        self._curve = np.zeros(len(CURVE))
        self.targets = 0
        self.tied = 0

    def add(self, user: Counts, better: Counts, ties: Counts) -> None:
        """Targets of users whose other targets, if any, come along."""
        if not len(better):
            return
        self.targets += len(better)
        self.tied += int((ties > 0).sum())
        found = metrics.by_event(better, ties, self._cutoffs)
        users = Users.of(user, np.stack(list(found.values()), axis=1))
        self._names = list(found)
        self._users = users if self._users is None else self._users.beside(users)
        self._curve += [metrics.recall(better, ties, n).sum() for n in CURVE]

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


def summarise(
    ranks_uri: str, channels: Sequence[str], cutoffs: Sequence[int], slices: dict[str, Slices]
) -> dict[str, Any]:
    """Metrics by split and channel, and of channel `all` by kinds of targets."""
    whole = {(split, channel): Means(cutoffs) for split in SPLITS for channel in channels}
    kinds = {
        (split, name): {kind: Means(cutoffs) for kind in slices[name].names}
        for split in SPLITS
        for name in slices
    }
    users = 0
    for part in _parts(ranks_uri):
        users += pc.count_distinct(part["user"]).as_py()
        for (split, channel), means in whole.items():
            user, target, better, ties = _selected(part, split, channel)
            means.add(user, better, ties)
            if channel == "all":
                for name, slicing in slices.items():
                    for kind, chosen in slicing.of(target):
                        kinds[split, name][kind].add(user[chosen], better[chosen], ties[chosen])
    return {
        "users": users,
        "targets": {split: whole[split, channels[0]].targets for split in SPLITS},
        "split": _by_split(channels, lambda s, c: whole[s, c].means()),
        "interval": _by_split(channels, lambda s, c: whole[s, c].intervals()),
        "ties": _by_split(channels, lambda s, c: whole[s, c].tied),
        "curve": {"n": list(CURVE), **_by_split(channels, lambda s, c: whole[s, c].curve())},
        "slices": _by_split(
            list(slices),
            lambda s, name: {
                kind: {"targets": means.targets, **means.means()}
                for kind, means in kinds[s, name].items()
            },
        ),
    }


def _by_split(names: Sequence[str], value: Any) -> dict[str, Any]:
    return {split: {name: value(split, name) for name in names} for split in SPLITS}


def _parts(uri: str) -> Iterator[pa.Table]:
    """The ranks, one file at a time; a user's rows stand in one file."""
    manifest = tables.open_table(uri, "run `python -m evaluation CONFIG`")
    filesystem, _ = files.file_system(uri)
    for path in tables.data_files(uri, manifest):
        yield pq.read_table(path, filesystem=filesystem, partitioning=None)


def _selected(
    part: pa.Table, split: str, channel: str
) -> tuple[Counts, NDArray[np.int32], Counts, Counts]:
    """user, target, better and ties of one split and channel."""
    rows = part.filter(pc.and_(pc.equal(part["split"], split), pc.equal(part["channel"], channel)))
    return (
        rows["user"].to_numpy(),
        rows["target"].to_numpy(),
        rows["better"].to_numpy(),
        rows["ties"].to_numpy(),
    )
