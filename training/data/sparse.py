"""Products of constant sparse matrices with the item embedding, and their gradient in one buffer.

X items, D width, n rows of a sparse matrix.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.device import working_set

Ints = NDArray[np.int64]

SUMS = 4  # working sets of the sums that are made before they are written


class Entries(NamedTuple):
    """Some rows of a sparse matrix, on a device."""

    starts: Tensor  # int32 [n], the first entry of each row
    rows: Tensor  # int32 [entries], 0 <= row < n, ascending
    columns: Tensor  # int32 [entries]
    weights: Tensor  # float32 [entries]

    def times(self, dense_XD: Tensor) -> Tensor:
        """[n, D]"""
        weights = self.weights.to(dense_XD.dtype)
        return F.embedding_bag(
            self.columns, dense_XD, self.starts, mode="sum", per_sample_weights=weights
        )

    def add_transposed(self, out_XD: Tensor, dense_nD: Tensor) -> None:
        """`out_XD` += the transposed matrix times `dense_nD`."""
        room = SUMS * working_set(out_XD)
        few_columns = out_XD.nbytes <= room and not out_XD.is_cuda
        together = len(self.rows) if few_columns else max(1, room // out_XD[0].nbytes)
        for at in range(0, len(self.rows), max(1, together)):
            rows, columns, weights = (part[at : at + together] for part in self[1:])
            if out_XD.is_cuda:
                moved = dense_nD.index_select(0, rows) * weights.to(dense_nD.dtype)[:, None]
            else:  # a core sums rows that are going to one place before it writes them
                columns, order = torch.sort(columns)
                columns, counts = torch.unique_consecutive(columns, return_counts=True)
                starts = (counts.cumsum(0) - counts).to(torch.int32)
                moved = Entries(starts, columns, rows[order], weights[order]).times(dense_nD)
            out_XD.index_add_(0, columns, moved)


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix in the host's memory: row r holds entries starts[r] to starts[r + 1]."""

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
        """Rows in any order; the host makes them, so a GPU need not hold the matrix."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        starts = np.cumsum(lengths) - lengths
        row = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
        at = np.arange(len(row)) + (self.starts[rows] - starts)[row]
        parts = starts.astype(np.int32), row, self.columns[at], self.weights[at]
        moved = (torch.from_numpy(part).to(device, non_blocking=True) for part in parts)
        return Entries(*moved)


def by_row(rows: Ints, columns: Ints, weights: NDArray[np.float64], num_rows: int) -> SparseRows:
    """A sparse matrix from its entries, sorted by row."""
    starts = np.zeros(num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=num_rows), out=starts[1:])
    return SparseRows(starts, columns.astype(np.int32), weights.astype(np.float32))


def product(left: SparseRows, right: SparseRows, width: int) -> SparseRows:
    """The sparse product of two sparse matrices; `right` has `width` columns."""
    lengths = np.diff(right.starts)[left.columns]
    entry = np.repeat(np.arange(len(left.columns)), lengths)
    ends = np.cumsum(lengths)
    at = np.arange(len(entry)) + (right.starts[left.columns] - (ends - lengths))[entry]
    row = np.repeat(np.arange(left.num_rows), np.diff(left.starts))[entry]
    place, group = np.unique(row * width + right.columns[at], return_inverse=True)
    products = left.weights[entry].astype(np.float64) * right.weights[at]
    sums = np.bincount(group, products).astype(np.float64)  # of no entries it makes integers
    return by_row(place // width, place % width, sums, left.num_rows)


def identity(columns: Tensor) -> Entries:
    """The rows of the identity matrix that choose `columns`."""
    place = torch.arange(len(columns), dtype=torch.int32, device=columns.device)
    weights = torch.ones(len(columns), device=columns.device)
    return Entries(place, place, columns.to(torch.int32), weights)


class DeviceRows(nn.Module):
    """A sparse matrix that stands beside the model too, for products with many rows."""

    rows: Tensor
    columns: Tensor
    weights: Tensor

    def __init__(self, matrix: SparseRows) -> None:
        super().__init__()
        self.matrix = matrix
        rows = np.repeat(np.arange(matrix.num_rows, dtype=np.int32), np.diff(matrix.starts))
        parts = {"rows": rows, "columns": matrix.columns, "weights": matrix.weights}
        for name, part in parts.items():
            self.register_buffer(name, torch.from_numpy(part), persistent=False)

    @property
    def nbytes(self) -> int:
        """Its buffers share the matrix's memory on a CPU."""
        shared = 0 if self.columns.is_cuda else self.columns.nbytes + self.weights.nbytes
        return (
            self.matrix.nbytes
            + self.rows.nbytes
            + self.columns.nbytes
            + self.weights.nbytes
            - shared
        )

    def between(self, first: int, last: int) -> Entries:
        """Rows first <= row < last."""
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
        """The whole product [rows, D]."""
        return self.all().times(dense_XD)


def read(table_XD: Tensor, matrices: dict[str, Entries]) -> tuple[Tensor, dict[str, Tensor]]:
    """The table as it is, and its product with each matrix.

    What is learned through the products is added to the gradient of the returned table, in place:
    one gradient of the table's size is held, not one a product.
    """
    table, *products = _Read.apply(table_XD, list(matrices.values()))  # type: ignore[no-untyped-call]
    return table, dict(zip(matrices, products, strict=True))


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_XD: Tensor, matrices: list[Entries]) -> Any:
        ctx.matrices = matrices
        return table_XD.view_as(table_XD), *(matrix.times(table_XD) for matrix in matrices)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        total_XD, *of_products = gradients
        for matrix, gradient in zip(ctx.matrices, of_products, strict=True):
            matrix.add_transposed(total_XD, gradient)
        return total_XD, None
