"""Products of constant sparse matrices with the item embedding, and their gradients.

X items, D width, n rows of a sparse matrix.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.arrays import Floats, Ints
from training.device import working_set

BLOCK_SETS = 4  # size of a block of rows to add, in working sets


class Entries(NamedTuple):
    """Rows of a sparse matrix on a device: the entries of one row after the other."""

    starts: Tensor  # int32 [n], the first entry of each row
    rows: Tensor  # int32 [entries], 0 <= row < n, ascending
    columns: Tensor  # int32 [entries]
    weights: Tensor  # float32 [entries]

    def times(self, dense_XD: Tensor) -> Tensor:
        """Return the product of these rows with `dense_XD` -> [n, D]."""
        weights = self.weights.to(dense_XD.dtype)
        return F.embedding_bag(
            self.columns, dense_XD, self.starts, mode="sum", per_sample_weights=weights
        )

    def add_transposed(self, out_XD: Tensor, dense_nD: Tensor) -> None:
        """Add the product of the transposed rows with `dense_nD` to `out_XD` in place.

        On a CPU the entries of a block that go to the same row of `out_XD` are summed first, so
        that each row is written once per block.
        """
        block_bytes = BLOCK_SETS * working_set(out_XD)
        in_one_block = out_XD.nbytes <= block_bytes and not out_XD.is_cuda
        block = len(self.rows) if in_one_block else max(1, block_bytes // out_XD[0].nbytes)
        for start in range(0, len(self.rows), max(1, block)):
            rows, columns, weights = (part[start : start + block] for part in self[1:])
            if out_XD.is_cuda:
                added = dense_nD.index_select(0, rows) * weights.to(dense_nD.dtype)[:, None]
            else:
                columns, order = torch.sort(columns)
                columns, counts = torch.unique_consecutive(columns, return_counts=True)
                starts = (counts.cumsum(0) - counts).to(torch.int32)
                added = Entries(starts, columns, rows[order], weights[order]).times(dense_nD)
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

    def select(self, rows: Ints, device: torch.device) -> Entries:
        """Copy rows, in any order, to the device. A GPU then need not hold the whole matrix."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        starts = np.cumsum(lengths) - lengths
        row = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
        entry = np.arange(len(row)) + (self.starts[rows] - starts)[row]
        parts = starts.astype(np.int32), row, self.columns[entry], self.weights[entry]
        return Entries(*(torch.from_numpy(part).to(device, non_blocking=True) for part in parts))


def sparse_matrix(rows: Ints, columns: Ints, weights: Floats, num_rows: int) -> SparseMatrix:
    """Build a sparse matrix from its entries, which are sorted by row."""
    starts = np.zeros(num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=num_rows), out=starts[1:])
    return SparseMatrix(starts, columns.astype(np.int32), weights.astype(np.float32))


def product(left: SparseMatrix, right: SparseMatrix, width: int) -> SparseMatrix:
    """Return the product of two sparse matrices; `right` has `width` columns."""
    lengths = np.diff(right.starts)[left.columns]
    left_entry = np.repeat(np.arange(len(left.columns)), lengths)
    ends = np.cumsum(lengths)
    shifts = (right.starts[left.columns] - (ends - lengths))[left_entry]
    right_entry = np.arange(len(left_entry)) + shifts
    row = np.repeat(np.arange(left.num_rows), np.diff(left.starts))[left_entry]
    cell, group = np.unique(row * width + right.columns[right_entry], return_inverse=True)
    products = left.weights[left_entry].astype(np.float64) * right.weights[right_entry]
    # Without entries bincount returns integers.
    sums = np.bincount(group, products).astype(np.float64)
    return sparse_matrix(cell // width, cell % width, sums, left.num_rows)


def identity(columns: Tensor) -> Entries:
    """Return the rows of the identity matrix that select `columns`."""
    rows = torch.arange(len(columns), dtype=torch.int32, device=columns.device)
    weights = torch.ones(len(columns), device=columns.device)
    return Entries(rows, rows, columns.to(torch.int32), weights)


class DeviceMatrix(nn.Module):
    """A sparse matrix that the model's device holds too, for products with many rows."""

    rows: Tensor
    columns: Tensor
    weights: Tensor

    def __init__(self, matrix: SparseMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        rows = np.repeat(np.arange(matrix.num_rows, dtype=np.int32), np.diff(matrix.starts))
        parts = {"rows": rows, "columns": matrix.columns, "weights": matrix.weights}
        for name, part in parts.items():
            self.register_buffer(name, torch.from_numpy(part), persistent=False)

    @property
    def nbytes(self) -> int:
        """Return the bytes of matrix and buffers. On a CPU they share columns and weights."""
        entries = self.columns.nbytes + self.weights.nbytes if self.columns.is_cuda else 0
        return self.matrix.nbytes + self.rows.nbytes + entries

    def between(self, first: int, last: int) -> Entries:
        """Return rows first <= row < last."""
        start, stop = self.matrix.starts[first], self.matrix.starts[last]
        starts = torch.from_numpy((self.matrix.starts[first:last] - start).astype(np.int32))
        return Entries(
            starts.to(self.columns.device, non_blocking=True),
            self.rows[start:stop] - first if first else self.rows[start:stop],
            self.columns[start:stop],
            self.weights[start:stop],
        )

    def all(self) -> Entries:
        return self.between(0, self.matrix.num_rows)

    def times(self, dense_XD: Tensor) -> Tensor:
        """Return the product of the whole matrix with `dense_XD` -> [rows, D]."""
        return self.all().times(dense_XD)


def multiply_all(
    table_XD: Tensor, matrices: dict[str, Entries]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the table, and its product with each matrix.

    Use the returned table for everything else: the gradients of the products are added in place to
    its gradient, so that only one gradient of the table's size exists instead of one per product.
    """
    table, *products = _MultiplyAll.apply(table_XD, list(matrices.values()))  # type: ignore[no-untyped-call]
    return table, dict(zip(matrices, products, strict=True))


class _MultiplyAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_XD: Tensor, matrices: list[Entries]) -> Any:
        ctx.matrices = matrices
        return table_XD.view_as(table_XD), *(matrix.times(table_XD) for matrix in matrices)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient_XD, *of_products = gradients
        for matrix, gradient in zip(ctx.matrices, of_products, strict=True):
            matrix.add_transposed(gradient_XD, gradient)
        return gradient_XD, None
