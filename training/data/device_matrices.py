"""Sparse matrices on the model's device; for a GPU as sums of few entries, by row and by column.

A GPU gives a sum to one thread, so a long row is cut into bags of at most BAG entries, whose sums
are added up. The product with the transposed rows is a sum for each column: no two threads add to
the same number, so it has the same bits in every run.

X items, D width, n rows.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map_only

from mdsrec.arrays import Ints
from mdsrec.errors import InputError
from training.data.sparse import MAX_ENTRIES, Entries, SparseMatrix

WIDE = 4  # columns for each entry, of which more are found by sorting
BAG = 256  # entries that are one sum
STACKED = "stacked"  # the name of several matrices together
BLOCK = 1 << 16  # rows of a matrix whose entries are ordered by column together


class Bags(NamedTuple):
    """Rows whose sums are made of bags."""

    entries: Entries  # of each bag
    numbers: Tensor | None = None  # int32 [bags], 0, 1, ...; None: every row is one bag
    starts: Tensor | None = None  # int32 [n + 1], the first bag of each row

    def times(self, dense_XD: Tensor) -> Tensor:
        """Return the product of the rows with `dense_XD` -> [n, D]."""
        sums = self.entries.times(dense_XD)
        if self.numbers is None or self.starts is None:
            return sums
        return F.embedding_bag(
            self.numbers, sums, self.starts, mode="sum", include_last_offset=True
        )


class ByColumn(NamedTuple):
    """The transposed rows, without the columns that have no entry."""

    columns: Tensor  # int64 [R], distinct
    rows: Bags  # of each column

    def add_product(self, out_XD: Tensor, dense_nD: Tensor) -> None:
        """Add the product of the transposed rows with `dense_nD` to `out_XD` in place."""
        out_XD.index_add_(0, self.columns, self.rows.times(dense_nD))


class StackedEntries(NamedTuple):
    """The rows of several matrices, one matrix after the other: one product gives all of them."""

    num_rows: dict[str, int]  # of each matrix
    rows: Bags
    by_column: ByColumn

    @property
    def columns(self) -> Tensor:
        """Return the distinct columns, ascending -> int64."""
        return self.by_column.columns

    def times(self, dense_XD: Tensor) -> Tensor:
        """Return the products of all matrices with `dense_XD` -> [n, D]."""
        return self.rows.times(dense_XD)

    def add_transposed(self, out_XD: Tensor, dense_nD: Tensor, num_items: int) -> None:
        """Add the product of the transposed rows with `dense_nD` to `out_XD` in place."""
        self.by_column.add_product(out_XD, dense_nD)

    def split(self, products_nD: Tensor) -> dict[str, Tensor]:
        """Return the product of each matrix."""
        parts = torch.split(products_nD, list(self.num_rows.values()))
        return dict(zip(self.num_rows, parts, strict=True))


def stack(matrices: Mapping[str, Entries | StackedEntries]) -> StackedEntries:
    """Stack matrices that are in host memory."""
    entries = {name: each for name, each in matrices.items() if isinstance(each, Entries)}
    assert len(entries) == len(matrices), "they are stacked already"
    ends = np.cumsum([0, *(len(each.columns) for each in entries.values())])
    starts = [e.starts.numpy()[:-1] + n for e, n in zip(entries.values(), ends, strict=False)]
    columns = np.concatenate([each.columns.numpy() for each in entries.values()])
    weights = np.concatenate([each.weights.numpy() for each in entries.values()])
    matrix = SparseMatrix(np.append(np.concatenate(starts), ends[-1]), columns, weights)
    num_rows = {name: len(each.starts) - 1 for name, each in entries.items()}
    return StackedEntries(num_rows, bags_of(matrix), by_column(matrix))


def bags_of(matrix: SparseMatrix) -> Bags:
    """Cut the rows of a matrix into bags."""
    bag_starts, row_starts = cut_rows(matrix.starts, BAG)
    entries = entries_of(SparseMatrix(bag_starts, matrix.columns, matrix.weights))
    num_bags = len(bag_starts) - 1
    if num_bags == matrix.num_rows:
        return Bags(entries)
    numbers = torch.arange(num_bags, dtype=torch.int32)
    return Bags(entries, numbers, torch.from_numpy(row_starts.astype(np.int32)))


def entries_of(matrix: SparseMatrix) -> Entries:
    """Return the rows of a matrix as tensors. InputError if a GPU cannot count their entries."""
    if matrix.starts[-1] > MAX_ENTRIES:
        raise InputError(
            f"a graph of {matrix.starts[-1]:,} entries: at most {MAX_ENTRIES:,} are possible on a "
            "GPU: set train.item_table=sharded on more workers, or train.device=cpu"
        )
    starts = torch.from_numpy(matrix.starts.astype(np.int32))
    return Entries(starts, torch.from_numpy(matrix.columns), torch.from_numpy(matrix.weights))


def cut_rows(starts: Ints, most: int) -> tuple[Ints, Ints]:
    """Cut rows into bags of at most so many entries, an empty row into an empty bag.

    Returns the first entry of each bag [bags + 1], and the first bag of each row [n + 1].
    """
    num_bags = np.maximum(-(-np.diff(starts) // most), 1)
    row_starts = np.append(0, np.cumsum(num_bags))
    row = np.repeat(np.arange(len(num_bags)), num_bags)
    number = np.arange(len(row)) - row_starts[row]
    return np.append(starts[row] + number * most, starts[-1]), row_starts


def by_column(matrix: SparseMatrix) -> ByColumn:
    """Order the entries of a matrix by column, then by row."""
    width = int(matrix.columns.max(initial=0)) + 1
    if width <= WIDE * len(matrix.columns) <= WIDE * MAX_ENTRIES:
        return _by_counted_column(matrix, width)
    columns, order = torch.sort(torch.from_numpy(matrix.columns), stable=True)
    distinct, counts = torch.unique_consecutive(columns, return_counts=True)
    starts = np.append(0, np.cumsum(counts.numpy()))
    rows = np.repeat(np.arange(matrix.num_rows, dtype=np.int32), np.diff(matrix.starts))
    transposed = SparseMatrix(starts, rows[order.numpy()], matrix.weights[order.numpy()])
    return ByColumn(distinct.long(), bags_of(transposed))


def _by_counted_column(matrix: SparseMatrix, width: int) -> ByColumn:
    """Return what `by_column` does, in a third of its time: the entries are not sorted."""
    parts = matrix.weights, matrix.columns, matrix.starts.astype(np.int32)
    transposed = csr_array(parts, shape=(matrix.num_rows, width)).tocsc()
    counts = np.diff(transposed.indptr)
    columns = np.flatnonzero(counts)
    starts = np.append(0, np.cumsum(counts[columns], dtype=np.int64))
    rows = bags_of(SparseMatrix(starts, transposed.indices, transposed.data))
    return ByColumn(torch.from_numpy(columns), rows)


def blocks_by_column(matrix: SparseMatrix) -> list[ByColumn]:
    """Return `by_column` of each BLOCK of rows, which count from the first of the block."""
    edges = [*range(0, matrix.num_rows, BLOCK), matrix.num_rows]
    return [by_column(matrix.rows_between(*each)) for each in pairwise(edges)]


class DeviceGraph(nn.Module):
    """An item graph inside a model."""

    @property
    def nbytes(self) -> int:
        """Return the bytes of the graph, on the host and on the device."""
        raise NotImplementedError

    def select(self, items: Ints, device: torch.device) -> Entries:
        """Return the rows of the items, in any order."""
        raise NotImplementedError

    def between(self, first: int, last: int) -> Entries:
        """Return the rows of the items that this rank owns, first <= number < last."""
        raise NotImplementedError

    def add_transposed(self, first: int, out_XD: Tensor, dense_nD: Tensor, num_items: int) -> None:
        """Add the product of n transposed rows with `dense_nD` to `out_XD` in place.

        They are the rows `between` `first` and `first` + n. On a GPU `first` is a multiple of
        BLOCK, and n is one or all that are left. `out_XD` has the rows of a table of `num_items`,
        or some of them.
        """
        raise NotImplementedError


class ItemGraph(Protocol):
    """An item graph in host memory, whose ranks hold parts of it."""

    def on_device(self) -> DeviceGraph:
        """Return a module that moves the graph to the model's device."""


class DeviceMatrix(DeviceGraph):
    """A sparse matrix that the model's device holds too, on a GPU also by column."""

    columns: Tensor
    weights: Tensor
    starts: Tensor

    def __init__(self, matrix: SparseMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.register_buffer("columns", torch.from_numpy(matrix.columns), persistent=False)
        self.register_buffer("weights", torch.from_numpy(matrix.weights), persistent=False)
        starts = matrix.starts.astype(np.int32 if matrix.starts[-1] <= MAX_ENTRIES else np.int64)
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)
        self._by_column: list[ByColumn] = []  # of each BLOCK of rows, on a GPU

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        self._by_column = []
        if self.columns.is_cuda:
            blocks = blocks_by_column(self.matrix)
            self._by_column = tree_map_only(Tensor, move, blocks)
        return self

    @property
    def nbytes(self) -> int:
        """Return the bytes of matrix and buffers. On a CPU they share all arrays."""
        on_gpu = [*self.buffers(), *self._by_column] if self.columns.is_cuda else []
        return self.matrix.nbytes + bytes_of(on_gpu)

    def select(self, items: Ints, device: torch.device) -> Entries:
        """Copy rows, in any order, to the device."""
        return self.matrix.select(items, device)

    def between(self, first: int, last: int) -> Entries:
        """Return rows first <= row < last."""
        start, stop = self.matrix.starts[first], self.matrix.starts[last]
        starts = self.starts[first : last + 1]
        starts = (starts - start if start else starts).to(torch.int32)
        return Entries(starts, self.columns[start:stop], self.weights[start:stop])

    def add_transposed(self, first: int, out_XD: Tensor, dense_nD: Tensor, num_items: int) -> None:
        if not self._by_column:
            rows = self.between(first, first + len(dense_nD))
            rows.add_transposed(out_XD, dense_nD, num_items)
            return
        for block, dense in enumerate(torch.split(dense_nD, BLOCK), first // BLOCK):
            self._by_column[block].add_product(out_XD, dense)


def device_graph(graph: SparseMatrix | ItemGraph) -> DeviceGraph:
    """Return a module that moves a graph to the model's device."""
    return DeviceMatrix(graph) if isinstance(graph, SparseMatrix) else graph.on_device()


def bytes_of(tensors: Any) -> int:
    """Return the bytes of all tensors in nested tuples and lists."""
    return sum(leaf.nbytes for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))
