"""Products of constant sparse matrices with the item embedding, and their gradients.

X items, D width, n rows of a sparse matrix.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mdsrec.arrays import Floats, Ints
from mdsrec.errors import InputError
from training.data.shared_arrays import Allocate, zeros
from training.device import working_set

PRODUCTS = 1 << 18  # of entries of two matrices, held at a time
SPAN = 1 << 22  # columns of a row of a product, added up at a time
MAX_ENTRIES = 2**31 - 1  # of some rows on a device
BLOCK_SETS = 4  # size of a block of rows to add, in working sets


class Entries(NamedTuple):
    """Rows of a sparse matrix on a device: the entries of one row after the other."""

    starts: Tensor  # int32 [n + 1]; row r holds entries starts[r] to starts[r + 1]
    columns: Tensor  # int32 [entries]
    weights: Tensor  # float32 [entries]

    @property
    def rows(self) -> Tensor:
        """Return the row of each entry, ascending -> int32 [entries]."""
        numbers = torch.arange(len(self.starts) - 1, dtype=torch.int32, device=self.starts.device)
        return numbers.repeat_interleave(self.starts.diff(), output_size=len(self.columns))

    def times(self, dense_XD: Tensor) -> Tensor:
        """Return the product of these rows with `dense_XD` -> [n, D]."""
        return F.embedding_bag(
            self.columns,
            dense_XD,
            self.starts,
            mode="sum",
            per_sample_weights=self.weights.to(dense_XD.dtype),
            include_last_offset=True,
        )

    def among(self, ids: Tensor) -> "Entries":
        """Return these entries with columns as indexes into `ids`, which ascend."""
        return self._replace(columns=torch.searchsorted(ids, self.columns, out_int32=True))

    def add_transposed(self, out_XD: Tensor, dense_nD: Tensor, num_items: int) -> None:
        """Add the product of the transposed rows with `dense_nD` to `out_XD` in place.

        The entries of a block that go to the same row of `out_XD` are summed first, so that each
        row is written once per block. `out_XD` may be some rows of a table of `num_items`. These
        decide the blocks, so the sums have the same bits as those of all rows. A GPU would wait for
        their number: it has another form (`device_matrices.py`).
        """
        if not len(self.columns):
            return  # there may be no row in `out_XD`
        block_bytes = BLOCK_SETS * working_set(out_XD)
        in_one_block = num_items * out_XD[0].nbytes <= block_bytes
        all_rows = self.rows
        block = len(all_rows) if in_one_block else max(1, block_bytes // out_XD[0].nbytes)
        for start in range(0, len(all_rows), max(1, block)):
            parts = (all_rows, self.columns, self.weights)
            rows, columns, weights = (part[start : start + block] for part in parts)
            columns, order = torch.sort(columns)
            columns, counts = torch.unique_consecutive(columns, return_counts=True)
            starts = F.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
            added = Entries(starts, rows[order], weights[order]).times(dense_nD)
            out_XD.index_add_(0, columns, added)


@dataclass(frozen=True)
class SparseMatrix:
    """A sparse matrix in host memory (CSR): row r holds entries starts[r] to starts[r + 1]."""

    starts: Ints  # [rows + 1]
    columns: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def num_rows(self) -> int:
        return len(self.starts) - 1

    @property
    def nbytes(self) -> int:
        return self.starts.nbytes + self.columns.nbytes + self.weights.nbytes

    def rows_between(self, first: int, last: int) -> "SparseMatrix":
        """Return rows first <= row < last."""
        start, stop = self.starts[first], self.starts[last]
        starts = self.starts[first : last + 1] - start
        return SparseMatrix(starts, self.columns[start:stop], self.weights[start:stop])

    def select(self, rows: Ints, device: torch.device) -> Entries:
        """Copy rows, in any order, to the device. A GPU then need not hold the whole matrix.

        InputError if they have more entries than an int32 counts.
        """
        lengths = self.starts[rows + 1] - self.starts[rows]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        if starts[-1] > MAX_ENTRIES:
            raise InputError(
                f"{len(rows):,} items of a step have {starts[-1]:,} entries of a sparse matrix, "
                f"at most {MAX_ENTRIES:,} are possible: set graph.max_cooccurrences, a smaller "
                "train.batch_size, or a larger train.accumulation"
            )
        entry = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], lengths)
        parts = starts.astype(np.int32), self.columns[entry], self.weights[entry]
        return Entries(*(torch.from_numpy(part).to(device) for part in parts))


def product(
    left: SparseMatrix, right: SparseMatrix, width: int, allocate: Allocate = zeros
) -> SparseMatrix:
    """Return the product of two sparse matrices; `right` has `width` columns.

    A cell is a sum of `product_rows`, rounded.
    """
    most = 0
    for start in range(0, len(left.columns), PRODUCTS):
        rows = left.columns[start : start + PRODUCTS].astype(np.int64)
        most += int((right.starts[rows + 1] - right.starts[rows]).sum())
    lengths = np.zeros(left.num_rows, np.int64)
    columns, weights = allocate(most, np.int32), allocate(most, np.float32)
    end = 0
    for row, found, sums in product_rows(left, right, width):
        start, end = end, end + len(found)
        columns[start:end], weights[start:end] = found, sums
        lengths[row] += len(found)
    starts = allocate(left.num_rows + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return SparseMatrix(starts, columns[:end], weights[:end])


def product_rows(
    left: SparseMatrix, right: SparseMatrix, width: int
) -> Iterator[tuple[int, Ints, Floats]]:
    """Yield the rows of a product, in order: number, columns and cells of a row or a part of it.

    A cell is a sum in the order of the entries of `left`, in double precision. Rows are made from
    about PRODUCTS products at a time.
    """
    for row, (first, last) in enumerate(pairwise(left.starts.tolist())):
        for columns, sums in _row_of_product(left, right, first, last, width):
            yield row, columns, sums


def _row_of_product(
    left: SparseMatrix, right: SparseMatrix, first: int, last: int, width: int
) -> Iterator[tuple[Ints, Floats]]:
    """Yield columns, in ascending order, and sums of the entries first <= entry < last of `left`.

    A row of few products sorts them. A long one adds them up in SPAN columns at a time.
    """
    parts = list(islice(_products(left, right, first, last), 2))
    if len(parts) < 2:
        for columns, products in parts:
            found, group = np.unique(columns, return_inverse=True)
            yield found, np.bincount(group, products).astype(np.float64)
        return
    for start in range(0, width, SPAN):
        sums, is_found = np.zeros(min(SPAN, width - start)), np.zeros(SPAN, bool)
        for columns, products in _products(left, right, first, last):
            inside = (columns >= start) & (columns < start + SPAN)
            place = columns[inside] - start
            np.add.at(sums, place, products[inside])
            is_found[place] = True
        found = np.flatnonzero(is_found)
        yield start + found, sums[found]


def _products(
    left: SparseMatrix, right: SparseMatrix, first: int, last: int
) -> Iterator[tuple[Ints, Floats]]:
    """Yield column and product of the pairs of entries, in order of those of `left`."""
    size = max(1, PRODUCTS * right.num_rows // max(1, len(right.columns)))
    for start in range(first, last, size):
        rows = left.columns[start : min(start + size, last)].astype(np.int64)
        lengths = right.starts[rows + 1] - right.starts[rows]
        ends = np.cumsum(lengths)
        entry = np.arange(ends[-1]) + np.repeat(right.starts[rows] - (ends - lengths), lengths)
        factors = np.repeat(left.weights[start : start + len(rows)].astype(np.float64), lengths)
        yield right.columns[entry], factors * right.weights[entry]


def identity(columns: Tensor) -> Entries:
    """Return the rows of the identity matrix that select `columns`."""
    starts = torch.arange(len(columns) + 1, dtype=torch.int32, device=columns.device)
    weights = torch.ones(len(columns), device=columns.device)
    return Entries(starts, columns.to(torch.int32), weights)


class Rows(Protocol):
    """Rows of a matrix that can be multiplied by the item embedding."""

    def times(self, dense_XD: Tensor) -> Tensor:
        """Return the product of the rows with `dense_XD` -> [n, D]."""

    def add_transposed(self, out_XD: Tensor, dense_nD: Tensor, num_items: int) -> None:
        """Add the product of the transposed rows with `dense_nD` to `out_XD` in place.

        `out_XD` has all rows of a table of `num_items`, or those that the columns are indexes into.
        """


def multiply_all(
    table_XD: Tensor, matrices: Mapping[str, Rows], num_items: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the table, and its product with each matrix.

    Use the returned table for everything else: the gradients of the products are added in place to
    its gradient, so that only one gradient of the table's size exists instead of one per product.
    The table may be some rows of one of `num_items`.
    """
    table, *products = _MultiplyAll.apply(table_XD, list(matrices.values()), num_items)  # type: ignore[no-untyped-call]
    return table, dict(zip(matrices, products, strict=True))


class _MultiplyAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_XD: Tensor, matrices: list[Rows], num_items: int) -> Any:
        ctx.matrices, ctx.num_items = matrices, num_items
        return table_XD.view_as(table_XD), *(matrix.times(table_XD) for matrix in matrices)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient_XD, *of_products = gradients
        for matrix, gradient in zip(ctx.matrices, of_products, strict=True):
            matrix.add_transposed(gradient_XD, gradient, ctx.num_items)
        return gradient_XD, None, None
