"""The `sequences` table, streamed from Parquet: training steps, and the events to rank.

The steps of an epoch depend only on the seed and the epoch, not on the number of workers. Every
rank computes the same steps and takes its part of each (`batch.py`):

1. The row groups of the table are permuted, then read together in shuffle windows of about
   `train.shuffle_window` users.
2. The samples of a shuffle window are shuffled and sorted by length, so that a step needs little
   padding. They are cut into steps of about `train.batch_size` prefixes.
3. The steps of the shuffle window are shuffled.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.parquet_groups import StoredGroup, read_group
from training.data.item_order import ItemOrder
from training.data.windows import Samples, Step, cut_into_steps, windows_of

GROUP_STREAM, WINDOW_STREAM = 0, 1  # of random numbers
EVENTS = ("items", "train_end", "valid_end")

History = NDArray[np.int32]
"""Item indexes of a user's events, oldest first."""


class EpochPosition(NamedTuple):
    """Progress within an epoch: `window` shuffle windows are done, and `step` steps of the next."""

    window: int = 0
    step: int = 0
    number: int = 0  # steps done in the epoch
    share: float = 0.0  # of the epoch's users


class UserGroup(NamedTuple):
    """A row group with users [first, last) of the table, whose row u is user u."""

    stored: StoredGroup
    first: int
    last: int


class Target(NamedTuple):
    """An event to predict from all events of the user before it."""

    user: int
    split: str  # valid | test
    target: int
    history: History


class SequenceReader:
    """Reader of the `sequences` table, or of other histories at `uri`."""

    def __init__(
        self, experiment: Experiment, uri: str | None = None, order: ItemOrder | None = None
    ) -> None:
        """Read items, or their places in `order`."""
        self.experiment, self._order = experiment, order or ItemOrder()
        uri = uri or tables.table_uri(experiment.root, "sequences")
        manifest = tables.open_table(uri)
        self.num_users = manifest.rows
        self._uri = uri
        self._groups = list(_numbered(tables.stored_groups(uri, manifest)))
        # Ranking reads users in order, often fewer at a time than a row group holds. The last
        # group is kept, with its events and with its ids.
        self._last_group = lru_cache(maxsize=2)(self._read_group)

    def steps(self, epoch: int) -> Iterator[Step]:
        """Yield the global steps of an epoch in order."""
        return (step for step, _ in self.steps_from(epoch, EpochPosition()))

    def steps_from(self, epoch: int, start: EpochPosition) -> Iterator[tuple[Step, EpochPosition]]:
        """Yield the steps after `start`, each with the position after it.

        Shuffle windows before `start` are not read.
        """
        number, users = start.number, 0
        for index, window in enumerate(self._shuffle_windows(epoch)):
            before, users = users, users + _num_users(window)
            if index < start.window:
                continue
            steps = self._steps_of(epoch, index, window)
            for position in range(start.step if index == start.window else 0, len(steps)):
                number, done = number + 1, position + 1
                share = (before + (users - before) * done / len(steps)) / self.num_users
                next_step = (index, done) if done < len(steps) else (index + 1, 0)
                yield steps[position], EpochPosition(*next_step, number, share)

    def targets(self, first: int, last: int, split: str | None = None) -> list[Target]:
        """Return the events to rank of users first <= user < last, by user, then by time."""
        return [
            target
            for user, rows in self._rows(first, last)
            for target in _targets_of(rows, user)
            if split is None or target.split == split
        ]

    def histories(self, first: int, last: int) -> list[History]:
        """Return all events of each user first <= user < last."""
        return [
            events.values.to_numpy()
            for _, rows in self._rows(first, last, ("items",))
            for events in rows.column("items")
        ]

    def user_ids(self, first: int, last: int) -> pa.ChunkedArray:
        """Return the id of each user first <= user < last."""
        rows = [rows for _, rows in self._rows(first, last, ("user_id",))]
        return pa.concat_tables(rows)["user_id"]

    def _read_group(self, group: UserGroup, columns: tuple[str, ...] = EVENTS) -> pa.Table:
        rows = read_group(self._uri, group.stored, columns)
        if self._order.place_of is None or "items" not in columns:
            return rows
        chunks = map(self._order.column_with_places, rows.column("items").chunks)
        return rows.set_column(
            columns.index("items"),
            "items",
            pa.chunked_array(chunks, rows.schema.field("items").type),
        )

    def _rows(
        self, first: int, last: int, columns: tuple[str, ...] = EVENTS
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield the rows of users first <= user < last by row group, each with its first user."""
        for group in self._groups:
            start, stop = max(first, group.first), min(last, group.last)
            if start < stop:
                rows = self._last_group(group, columns)
                yield start, rows.slice(start - group.first, stop - start)

    def _shuffle_windows(self, epoch: int) -> Iterator[list[UserGroup]]:
        """Yield the row groups in the epoch's order, as many together as are shuffled together."""
        generator = np.random.default_rng([self.experiment.seed, epoch, GROUP_STREAM])
        window: list[UserGroup] = []
        for index in generator.permutation(len(self._groups)):
            window.append(self._groups[index])
            if _num_users(window) >= self.experiment.train.shuffle_window:
                yield window
                window = []
        if window:
            yield window

    def _steps_of(self, epoch: int, index: int, window: list[UserGroup]) -> list[Step]:
        """Return the shuffled steps of the shuffle window at `index`."""
        generator = np.random.default_rng([self.experiment.seed, epoch, WINDOW_STREAM, index])
        samples = self._samples(window)
        samples = samples[generator.permutation(len(samples))]
        samples = samples[np.argsort(samples.stops - samples.starts, kind="stable")]
        steps = cut_into_steps(samples, self.experiment.train.batch_size)
        return [steps[i] for i in generator.permutation(len(steps))]

    def _samples(self, window: list[UserGroup]) -> Samples:
        table = pa.concat_tables(self._read_group(group) for group in window)
        lists = table.column("items").chunks  # together they may be too long for a list of Arrow
        lengths = np.concatenate([part.value_lengths() for part in lists], dtype=np.int64)
        return windows_of(
            np.concatenate([part.flatten().to_numpy() for part in lists], dtype=np.int64),
            np.cumsum(lengths) - lengths,
            table.column("train_end").to_numpy().astype(np.int64),
            self.experiment.network.max_length,
        )


def _numbered(groups: list[StoredGroup]) -> Iterator[UserGroup]:
    first = 0
    for group in groups:
        yield UserGroup(group, first, first + group.rows)
        first += group.rows


def _num_users(window: list[UserGroup]) -> int:
    return sum(group.last - group.first for group in window)


def _targets_of(rows: pa.Table, first_user: int) -> Iterator[Target]:
    columns = (rows.column(name) for name in ("items", "train_end", "valid_end"))
    for user, (items, train_end, valid_end) in enumerate(zip(*columns, strict=True), first_user):
        events = items.values.to_numpy()
        for position in range(max(train_end.as_py(), 1), len(events)):
            split = "valid" if position < valid_end.as_py() else "test"
            yield Target(user, split, int(events[position]), events[:position])
