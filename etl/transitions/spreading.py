"""The memory of transitions M = C' + spread (A C' + C' A^T) + similarity A.

C' holds the heaviest entries of each row of the transitions C. Row i of A holds the nearest
neighbors of item i, weighted by similarity so that the row sums to 1. So what follows a neighbor of
an item also follows the item (A C'), and so does a neighbor of what follows it (C' A^T). Of M, too,
the heaviest entries of each row are kept.

A task computes the rows of one span of items, from the rows of C' and of A^T that these need: those
of the items' neighbors and of their followers. Sums are float64 in the order of the items, so they
depend neither on spans nor on the partitioning.

Shapes: X items, n items of a span. Matrices are sparse, in CSR form with sorted columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array, csr_array, vstack

from etl.graph.heaviest import read_rows
from etl.graph.row_cuts import Cut, keep_heaviest, total_cut
from etl.graph.tiles import ENTRY, ENTRY_BYTES, SPAN_BYTES, Entries
from etl.spark.blocks import block_size
from etl.spark.vector_table import ItemTable
from mdsrec.arrays import Ints
from mdsrec.config import TransitionsConfig

PRODUCTS_PER_CHUNK = 1 << 22  # of entries, added up at a time
NUMBERS_PER_ENTRY = 4  # of float32, that an entry of a matrix takes
MAX_SPANS = 1 << 13  # a larger catalogue has longer spans, not more of them, up to:
LONGEST_SPAN_BYTES = 2 << 30  # so that a process, which holds about as much, stays below 3 GiB
KINDS = TRANSITIONS, NEIGHBORS_TO = 0, 1  # the factors whose rows a span needs: C' and A^T


@dataclass(frozen=True)
class Spreading:
    """M by spans of its rows."""

    transitions: ItemTable  # C
    neighbors: tuple[ItemTable, ...]  # a table per modality
    num_items: int
    num_transitions: int  # entries of C
    config: TransitionsConfig
    neighbors_to: ItemTable | None = None  # A^T, needed if `spreads`

    @property
    def spreads(self) -> bool:
        return self.config.spread > 0 and self._num_neighbors > 0

    @property
    def span(self) -> int:
        """Return how many rows of M fill SPAN_BYTES, or more where spans would be too many."""
        longer = min(self.num_items // MAX_SPANS, LONGEST_SPAN_BYTES // self._row_bytes)
        return max(1, SPAN_BYTES // self._row_bytes, longer)

    @property
    def span_bytes(self) -> int:
        """Return the memory of a span's entries before those of equal columns are added."""
        return self.span * self._row_bytes

    @property
    def block_size(self) -> int:
        """Return how many rows of C, or of A, a task reads at a time."""
        return block_size(NUMBERS_PER_ENTRY * max(self._entries, self._num_neighbors))

    @property
    def num_blocks(self) -> int:
        return -(-self.num_items // self.block_size)

    def needs(self, first: int, last: int) -> tuple[Ints, Ints]:
        """Return the items whose rows of C', and of A^T, the rows of a span need."""
        return (
            np.unique(self._neighbors(first, last).indices).astype(np.int64),
            np.unique(self._transitions(first, last)[0].indices).astype(np.int64),
        )

    def factor(self, kind: int, first: int, last: int) -> csr_array:
        """Return rows of C' or of A^T [n, X]."""
        if kind == TRANSITIONS:
            return self._transitions(first, last)[0]
        assert self.neighbors_to is not None
        return read_rows(self.neighbors_to, first, last, self.num_items)

    def transposed(self, first: int, last: int) -> Entries:
        """Return the entries that rows of A [n, X] have in A^T."""
        A = self._neighbors(first, last).tocoo()
        entries = np.empty(A.nnz, ENTRY)
        entries["item"], entries["other"], entries["score"] = A.col, A.row + first, A.data
        return entries

    def rows(
        self, first: int, last: int, factors: Sequence[csr_array] = ()
    ) -> tuple[csr_array, Cut, Cut]:
        """Return the rows [n, X] of a span, and what was left out of C and of M.

        If it `spreads`, `factors` are the rows of C' and of A^T that the span `needs`.
        """
        C, cut_of_C = self._transitions(first, last)
        A = self._neighbors(first, last)
        products = list(zip((_compact(A), _compact(C)), factors, strict=True)) if factors else []
        parts, cuts = [], []
        for start, stop in _chunks(products, last - first):
            M = C[start:stop] + self.config.similarity * A[start:stop]
            for left, right in products:
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
    def _row_bytes(self) -> int:
        """Return the memory of a row of M before entries of equal columns are added."""
        entries = self._entries * (1 + 2 * self._num_neighbors) + self._num_neighbors
        return ENTRY_BYTES * entries

    @property
    def _num_neighbors(self) -> int:
        return self.config.num_neighbors * len(self.neighbors)

    def _transitions(self, first: int, last: int) -> tuple[csr_array, Cut]:
        """Return rows of C' [n, X], and what was left out of C."""
        C = read_rows(self.transitions, first, last, self.num_items)
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


def _compact(M: csr_array) -> csr_array:
    """Return M without the columns that have no entry."""
    columns, place = np.unique(M.indices, return_inverse=True)
    return csr_array((M.data, place, M.indptr), shape=(M.shape[0], len(columns)))


def _chunks(factors: list[tuple[csr_array, csr_array]], num_rows: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows whose sums have about PRODUCTS_PER_CHUNK terms."""
    before: npt.NDArray[np.int64] = np.zeros(num_rows, np.int64)
    for left, right in factors:
        terms = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices])])
        before += terms[left.indptr[:-1]]
    starts = np.flatnonzero(np.diff(before // PRODUCTS_PER_CHUNK, prepend=-1)).tolist()
    return pairwise([*starts, num_rows])
