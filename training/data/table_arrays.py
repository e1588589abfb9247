"""Item tables as arrays: rows stream in, and each goes straight to its place in the final array.

So a load takes the memory of what it keeps and of one batch of rows. Arrays are allocated as large
as they could become; what is not written takes no memory.

X items, H neighbors per item.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdsrec.arrays import Floats, Ints
from training.data.shared_arrays import Allocate
from training.data.sparse import SparseMatrix

ROWS = 1 << 20  # of a matrix, filled at a time

Batches = Iterable[pa.RecordBatch]
Weights = NDArray[np.float32]


class Lists(NamedTuple):
    """The lists of some items, one after the other."""

    items: Ints  # ascending
    ends: Ints  # of each list in `values`
    values: NDArray[Any]

    def between(self, first: int, last: int) -> "Lists":
        """Return those of items first <= item < last."""
        start, stop = np.searchsorted(self.items, [first, last])
        before, end = (self.ends[place - 1] if place else 0 for place in (start, stop))
        ends = self.ends[start:stop] - before
        return Lists(self.items[start:stop], ends, self.values[before:end])


def normalized_rows(
    read: Callable[[], Batches], num_items: int, num_entries: int, how: str, allocate: Allocate
) -> SparseMatrix:
    """Return N(O) of entries (item, other, score) of a symmetric O, sorted by item (Eq. 3).

    `how` is row (divide by the row sum), symmetric (D^-1/2 O D^-1/2 with the row sums D) or none.
    Row sums add up in the order of the entries, whichever batches they come in. `read` is
    called twice if `how` is symmetric.
    """
    degree = row_sums(read(), num_items) if how == "symmetric" else None
    starts = allocate(num_items + 1, np.int64)
    columns, weights = allocate(num_entries, np.int32), allocate(num_entries, np.float32)
    done = 0
    for items, others, scores in normalized_entries(read(), how, degree):
        present, _, lengths = _rows(items)
        starts[1 + present] = lengths
        end = done + len(items)
        columns[done:end], weights[done:end], done = others, scores, end
    np.cumsum(starts, out=starts)
    return SparseMatrix(starts, columns, weights)


def normalized_entries(
    batches: Batches, how: str, degree: Floats | None
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Yield the entries (item, other, weight) of N(O), whole rows at a time.

    `degree` holds the row sums of O, if `how` is symmetric.
    """
    for items, others, scores in _whole_rows(batches):
        if how == "row":
            _, rows, _ = _rows(items)
            scores = scores / np.bincount(rows, weights=scores)[rows]
        elif degree is not None:
            scores = scores / np.sqrt(degree[items] * degree[others])
        yield items, others, scores


def scored_rows(
    batches: Batches,
    num_items: int,
    num_entries: int,
    term: Callable[[Weights], Floats],
    allocate: Allocate,
) -> SparseMatrix:
    """Return the entries (item, other, score) with `term` of each score as weight."""
    starts = allocate(num_items + 1, np.int64)
    columns, weights = allocate(num_entries, np.int32), allocate(num_entries, np.float32)
    done = 0
    for batch in batches:
        items, others, scores = (column.to_numpy() for column in batch.columns)
        present, _, lengths = _rows(items)
        starts[1 + present] += lengths
        end = done + len(items)
        columns[done:end], weights[done:end], done = others, term(scores), end
    np.cumsum(starts, out=starts)
    return SparseMatrix(starts, columns, weights)


def neighbor_rows(
    lists: Iterable[Lists],
    num_items: int,
    num_lists: int,
    num_neighbors: int,
    include_self: bool,
    allocate: Allocate,
    offset: int = 0,
) -> SparseMatrix:
    """Return Ahat^m (Eq. 5): the first H neighbors of each item, and itself if `include_self`.

    A row that would be empty (an item without the modality, or H = 0) holds the item itself, so
    that it keeps its own row of E^id. Row r is that of item `offset + r`.
    """
    starts = allocate(num_items + 1, np.int64)
    columns = allocate(num_items + num_lists * num_neighbors, np.int32)
    weights = allocate(len(columns), np.float32)
    for first, last, part in _row_blocks(lists, num_items):
        place = part.items - first
        lengths = np.diff(part.ends, prepend=0)
        near = np.zeros(last - first, np.int64)
        near[place] = np.minimum(lengths, num_neighbors)
        own = near == 0
        own[place] |= include_self
        ends = starts[first] + np.cumsum(near + own)
        starts[first + 1 : last + 1] = ends
        columns[ends[own] - 1] = offset + first + np.flatnonzero(own)
        position = np.arange(len(part.values)) - np.repeat(part.ends - lengths, lengths)
        to = np.repeat(starts[part.items], lengths) + position
        columns[to[position < num_neighbors]] = part.values[position < num_neighbors]
        weights[starts[first] : starts[last]] = 1.0
    return SparseMatrix(starts, columns[: starts[-1]], weights[: starts[-1]])


def member_rows(
    read: Callable[[], Batches], num_members: int, num_centers: int, allocate: Allocate
) -> SparseMatrix:
    """Return C^m (Eq. 10-11) of pairs (item, center), sorted by item.

    Its rows average over a center's members; a row without members is zero. `read` is called twice.
    """
    starts = allocate(num_centers + 1, np.int64)
    columns, weights = allocate(num_members, np.int32), allocate(num_members, np.float32)
    for batch in read():
        starts[1:] += np.bincount(batch.column(1).to_numpy(), minlength=num_centers)
    weight_of = 1.0 / np.maximum(starts[1:], 1)
    np.cumsum(starts, out=starts)
    free = starts[:-1].copy()  # place of the next member of each center
    for batch in read():
        items, centers = (column.to_numpy() for column in batch.columns)
        order = np.argsort(centers, kind="stable")
        counts = np.bincount(centers, minlength=num_centers)
        places = np.arange(len(items)) + np.repeat(free - (np.cumsum(counts) - counts), counts)
        columns[places], weights[places] = items[order], weight_of[centers[order]]
        free += counts
    return SparseMatrix(starts, columns, weights)


def vectors(
    batches: Batches, num_items: int, width: int, allocate: Allocate, offset: int = 0
) -> NDArray[Any]:
    """Return the vectors of all items, float32 [X, width]; zero rows for items without one.

    Row r is that of item `offset + r`.
    """
    found = allocate((num_items, width), np.float32)
    for batch in batches:
        found[batch.column(0).to_numpy() - offset] = (
            batch.column(1).flatten().to_numpy().reshape(-1, width)
        )
    return found


def lists_of(batches: Batches) -> Iterator[Lists]:
    """Yield the pairs (item, list) of each batch."""
    for batch in batches:
        items, lists = batch.columns
        ends = np.cumsum(lists.value_lengths().to_numpy(), dtype=np.int64)
        yield Lists(items.to_numpy(), ends, lists.flatten().to_numpy())


def _row_blocks(lists: Iterable[Lists], num_items: int) -> Iterator[tuple[int, int, Lists]]:
    """Yield blocks of at most ROWS items, all items in order, with the lists in each."""
    first = 0
    no_lists = Lists(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32))
    for part in chain(lists, [no_lists]):
        end = num_items if part is no_lists else int(part.items[-1]) + 1
        for start in range(first, end, ROWS):
            last = min(start + ROWS, end)
            yield start, last, part.between(start, last)
        first = max(first, end)


def row_sums(batches: Batches, num_items: int) -> Floats:
    """Return the sum of each row of O, added up in the order of its entries."""
    sums = np.zeros(num_items)
    for items, _, scores in _whole_rows(batches):
        present, rows, _ = _rows(items)
        sums[present] = np.bincount(rows, weights=scores)
    return sums


def _whole_rows(batches: Batches) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Yield the entries in order, never a part of a row: its last one waits for the next batch."""
    waiting: list[NDArray[Any]] | None = None
    for batch in batches:
        columns = [column.to_numpy() for column in batch.columns]
        if waiting is not None:
            columns = [np.concatenate(parts) for parts in zip(waiting, columns, strict=True)]
        last_row = int(np.searchsorted(columns[0], columns[0][-1:])[0]) if len(columns[0]) else 0
        waiting = [column[last_row:] for column in columns]
        if last_row:
            items, others, scores = (column[:last_row] for column in columns)
            yield items, others, scores
    if waiting is not None and len(waiting[0]):
        items, others, scores = waiting
        yield items, others, scores


def _rows(items: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the distinct of ascending items, the place of each entry's item, and their counts."""
    is_first = np.diff(items, prepend=-1) != 0
    starts = np.flatnonzero(is_first)
    lengths = np.diff(starts, append=len(items))
    return items[starts].astype(np.int64), np.cumsum(is_first) - 1, lengths
