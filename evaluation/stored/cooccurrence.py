"""Rows of the co-occurrence O (Eq. 2), read from its table when they are needed.

Held are 16 bytes per item (its first entry, and the sum of its row), and the entries of the first
row groups, up to HELD_ENTRIES. The other row groups are read again for every call that needs them.

X items.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from evaluation.stored.table_rows import PlacedGroup, TableRows
from mdsrec import schema, tables
from mdsrec.arrays import Counts, Floats

HELD_ENTRIES = 20_000_000  # 12 bytes each


class Entries(NamedTuple):
    """Entries of O, one row after the other."""

    others: npt.NDArray[np.int32]
    scores: Floats


class StoredSimilarity:
    """The matrix O_ij / sqrt(o_i o_j) with the row sums o of O, of the table at `uri`."""

    def __init__(self, uri: str, num_items: int) -> None:
        self.shape = num_items, num_items
        self._rows = TableRows(uri, schema.COOCCURRENCE, ["other", "score"])
        self._group_ends = np.array([group.last for group in self._rows.groups])
        self._starts, self._sums = _starts_and_sums(uri, num_items)
        self._held: dict[PlacedGroup, Entries] = {}

    def row_lengths(self, items: Counts) -> Counts:
        """Return the number of entries in the rows of some items."""
        lengths: Counts = self._starts[items + 1] - self._starts[items]
        return lengths

    def __getitem__(self, items: Counts) -> csr_array:
        """Return the rows of some items, which ascend."""
        lengths = self.row_lengths(items)
        parts = [Entries(np.empty(0, np.int32), np.empty(0))]
        parts += [self._entries_in(group, items) for group in self._groups_with(items)]
        others, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        scores = scores / np.sqrt(np.repeat(self._sums[items], lengths) * self._sums[others])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return csr_array((scores, others, starts), shape=(len(items), self.shape[1]))

    def _groups_with(self, items: Counts) -> list[PlacedGroup]:
        """Return the row groups that hold entries of some of the items."""
        filled = items[self.row_lengths(items) > 0]
        first = np.searchsorted(self._group_ends, self._starts[filled], side="right")
        last = np.searchsorted(self._group_ends, self._starts[filled + 1] - 1, side="right")
        changes = np.zeros(len(self._group_ends) + 1, dtype=np.int64)
        np.add.at(changes, first, 1)
        np.add.at(changes, last + 1, -1)
        needed = np.flatnonzero(np.cumsum(changes[:-1]))
        return [self._rows.groups[number] for number in needed]

    def _entries_in(self, group: PlacedGroup, items: Counts) -> Entries:
        """Return the entries of the items' rows that are in a row group."""
        starts = np.maximum(self._starts[items], group.first)
        lengths = np.maximum(np.minimum(self._starts[items + 1], group.last) - starts, 0)
        shifts = starts - group.first - (np.cumsum(lengths) - lengths)
        places = np.arange(lengths.sum()) + np.repeat(shifts, lengths)
        others, scores = self._read(group)
        return Entries(others[places], scores[places])

    def _read(self, group: PlacedGroup) -> Entries:
        if group in self._held:
            return self._held[group]
        rows = self._rows.read(group)
        entries = Entries(rows["other"].to_numpy(), rows["score"].to_numpy())
        held = sum(len(each.others) for each in self._held.values())
        if held + len(entries.others) <= HELD_ENTRIES:
            self._held[group] = entries
        return entries


def _starts_and_sums(uri: str, num_items: int) -> tuple[Counts, Floats]:
    """Return the first entry of each row [X + 1], and the sum of each row [X], in table order."""
    starts, sums = np.zeros(num_items + 1, dtype=np.int64), np.zeros(num_items)
    manifest = tables.open_table(uri)
    for batch in tables.stream_table(uri, manifest, schema.COOCCURRENCE, ["item", "score"]):
        items, scores = (column.to_numpy() for column in batch.columns)
        first, last = int(items[0]), int(items[-1]) + 1
        starts[first + 1 : last + 1] += np.bincount(items - first)
        # The sum so far is the first term, so a row in two batches is summed as in one.
        places = np.concatenate([np.arange(last - first), items - first])
        sums[first:last] = np.bincount(places, np.concatenate([sums[first:last], scores]))
    return np.cumsum(starts, out=starts), sums
