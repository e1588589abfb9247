"""The memory of transitions M = C' + spread (A C' + C' A^T) + similarity A.

C' holds the heaviest entries of each row of the transitions C. Row i of A holds the nearest
neighbors of item i, weighted by similarity so that the row sums to 1. So what follows a neighbor of
an item also follows the item (A C'), and so does a neighbor of what follows it (C' A^T). Of M, too,
the heaviest entries of each row are kept.

A task computes the rows of one span of items. It streams C and A in blocks and keeps of them what
the span meets. Sums are float64 in the order of the items, so they depend neither on spans nor on
the partitioning.

Shapes: X items, n items of a span. Matrices are sparse, in CSR form with sorted columns.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array, csr_array, vstack

from etl.graph.propagation import ENTRY_BYTES, SPAN_BYTES
from etl.spark.blocks import block_ranges, block_size
from etl.spark.vector_table import ItemTable
from mdsrec.arrays import Ints
from mdsrec.config import TransitionsConfig

PRODUCTS_PER_CHUNK = 1 << 22  # of entries, added up at a time
NUMBERS_PER_ENTRY = 4  # of float32, that an entry of a matrix takes


class Cut(NamedTuple):
    """Entries that are left out of a matrix."""

    rows: int  # that have such entries
    weight: float  # of all entries of the matrix
    lost: float  # weight of those left out


@dataclass(frozen=True)
class Spreading:
    """M by spans of its rows."""

    transitions: ItemTable  # C
    neighbors: tuple[ItemTable, ...]  # a table per modality
    num_items: int
    num_transitions: int  # entries of C
    config: TransitionsConfig

    @property
    def span(self) -> int:
        """Return how many rows of M fill SPAN_BYTES, before those of equal columns are added."""
        entries = self._entries * (1 + 2 * self._num_neighbors) + self._num_neighbors
        return max(1, SPAN_BYTES // (ENTRY_BYTES * entries))

    def rows(self, first: int, last: int) -> tuple[csr_array, Cut, Cut]:
        """Return the rows [n, X] of a span, and what was left out of C and of M."""
        C, cut_of_C = self._transitions(first, last)
        A = self._neighbors(first, last)
        factors = []
        if self.config.spread:
            neighbors, A_compact = _compact(A)
            followers, C_compact = _compact(C)
            factors = [
                (A_compact, self._transitions_of(neighbors)),
                (C_compact, self._neighbors_to(followers)),
            ]
        parts, cuts = [], []
        for start, stop in _chunks(factors, last - first):
            M = C[start:stop] + self.config.similarity * A[start:stop]
            for left, right in factors:
                M = M + self.config.spread * (left[start:stop] @ right)
            M.sort_indices()
            part, cut = keep_heaviest(M, self.config.max_entries)
            parts.append(part)
            cuts.append(cut)
        return vstack(parts, format="csr"), cut_of_C, total_cut(cuts)

    @property
    def _entries(self) -> int:
        """Return the mean number of entries in a row of C, rounded up."""
        return -(-self.num_transitions // self.num_items) or 1

    @property
    def _num_neighbors(self) -> int:
        return self.config.num_neighbors * len(self.neighbors)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        entries = max(self._entries, self._num_neighbors)
        return block_ranges(self.num_items, block_size(NUMBERS_PER_ENTRY * entries))

    def _transitions(self, first: int, last: int) -> tuple[csr_array, Cut]:
        """Return rows of C' [n, X], and what was left out of C."""
        table = self.transitions.read(first, last, ["item", "other", "score"])
        item, other, score = (table.column(name).to_numpy() for name in table.column_names)
        starts = np.searchsorted(item, np.arange(first, last + 1))
        C = csr_array((score, other, starts), shape=(last - first, self.num_items))
        return keep_heaviest(C, self.config.max_entries)

    def _neighbors(self, first: int, last: int) -> csr_array:
        """Return rows of A [n, X]: the mean over the modalities in which an item has neighbors."""
        A = csr_array((last - first, self.num_items))
        num_modalities = np.zeros(last - first, np.int64)
        for neighbors in self.neighbors:
            table = neighbors.read(first, last, ["item", "neighbors", "similarities"])
            weights = neighbor_weights(
                table, first, last, self.num_items, self.config.num_neighbors
            )
            num_modalities += np.diff(weights.indptr) > 0
            A = A + weights
        A.data /= np.repeat(num_modalities, np.diff(A.indptr))
        return A

    def _transitions_of(self, items: Ints) -> csr_array:
        """Return the rows of C' of some items [len(items), X]."""
        rows = [csr_array((0, self.num_items))]
        for start, stop in self._blocks():
            here = items[slice(*np.searchsorted(items, [start, stop]))]
            if len(here):
                rows.append(self._transitions(start, stop)[0][here - start])
        return vstack(rows, format="csr")

    def _neighbors_to(self, items: Ints) -> csr_array:
        """Return the rows of A^T of some items [len(items), X]: the items that they are near to."""
        shape = len(items), self.num_items
        weights, rows, columns = [np.empty(0)], [np.empty(0, int)], [np.empty(0, int)]
        for start, stop in self._blocks() if len(items) else ():
            A = self._neighbors(start, stop).tocoo()
            row = np.searchsorted(items, A.col).clip(max=len(items) - 1)
            meets = items[row] == A.col
            weights.append(A.data[meets])
            rows.append(row[meets])
            columns.append(A.row[meets] + start)
        place = np.concatenate(rows), np.concatenate(columns)
        return coo_array((np.concatenate(weights), place), shape=shape).tocsr()


def neighbor_weights(
    table: pa.Table, first: int, last: int, num_items: int, num_neighbors: int
) -> csr_array:
    """Return the similarities of the nearest neighbors over their sum [n, X].

    `table` has the rows of first <= item < last. Negative similarities count as 0. Where none is
    positive, all neighbors weigh the same.
    """
    lists, similarities = (
        table.column(name).combine_chunks() for name in ("neighbors", "similarities")
    )
    lengths = np.zeros(last - first, np.int64)
    lengths[table.column("item").to_numpy() - first] = lists.value_lengths().to_numpy()
    row = np.repeat(np.arange(last - first), lengths)
    rank = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    near = rank < num_neighbors
    row, other = row[near], lists.flatten().to_numpy()[near]
    weights = similarities.flatten().to_numpy()[near].astype(np.float64).clip(min=0)
    weights[np.bincount(row, weights, last - first)[row] == 0] = 1
    weights /= np.bincount(row, weights, last - first)[row]
    return coo_array((weights, (row, other)), shape=(last - first, num_items)).tocsr()


def keep_heaviest(M: csr_array, most: int) -> tuple[csr_array, Cut]:
    """Return the `most` heaviest entries of each row, ties by column, and what was left out."""
    lengths = np.diff(M.indptr)
    weight = float(M.data.sum())
    if lengths.max(initial=0) <= most:
        return M, Cut(0, weight, 0.0)
    row = np.repeat(np.arange(len(lengths)), lengths)
    by_weight = np.lexsort((-M.data, row))
    rank = np.arange(len(row)) - np.repeat(M.indptr[:-1], lengths)
    kept = np.sort(by_weight[rank < most])
    starts = np.concatenate([[0], np.cumsum(np.minimum(lengths, most))])
    heaviest = csr_array((M.data[kept], M.indices[kept], starts), shape=M.shape)
    lost = float(M.data[by_weight[rank >= most]].sum())
    return heaviest, Cut(int((lengths > most).sum()), weight, lost)


def total_cut(cuts: Sequence[Cut]) -> Cut:
    """Return the sums over parts of a matrix."""
    rows, weights, lost = zip(*cuts, strict=True)
    return Cut(sum(rows), math.fsum(weights), math.fsum(lost))


def _compact(M: csr_array) -> tuple[Ints, csr_array]:
    """Return the columns that have entries, ascending, and M without the other ones."""
    columns, place = np.unique(M.indices, return_inverse=True)
    return columns, csr_array((M.data, place, M.indptr), shape=(M.shape[0], len(columns)))


def _chunks(factors: list[tuple[csr_array, csr_array]], num_rows: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows whose sums have about PRODUCTS_PER_CHUNK terms."""
    before: npt.NDArray[np.int64] = np.zeros(num_rows, np.int64)
    for left, right in factors:
        terms = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices])])
        before += terms[left.indptr[:-1]]
    starts = np.flatnonzero(np.diff(before // PRODUCTS_PER_CHUNK, prepend=-1)).tolist()
    return pairwise([*starts, num_rows])
