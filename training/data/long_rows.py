"""Products of a matrix of a few very long rows, as C Ahat of Eq. 11, with the item embedding.

A row has entries of a large part of the items, so a product reads the whole table. As one sum a
row, it would be the work of a few cores, and of as many sums in a row as there are items. So a row
is cut into bags of at most BAG entries, whose sums are added up in order. The backward pass reads
the transposed matrix, where the entries of an item are one short row.

X items, K rows, D width.
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from training.data.column_blocks import times_in_blocks
from training.data.device_matrices import (
    Bags,
    DeviceMatrix,
    bags_of,
    bytes_of,
    cut_rows,
    entries_of,
)
from training.data.sparse import Entries, SparseMatrix
from training.device import working_set

BAG = 1 << 16  # entries that are one sum
FEW = 1 << 20  # entries that are sorted by item in every step; more are kept sorted
BAGS = 1 << 12  # bags that are summed in one call, whose entries an int32 counts


class GpuForm(NamedTuple):
    """The matrix in bags for a GPU, and the transposed matrix."""

    rows: Bags
    columns: Entries  # of all items


class LongRows(nn.Module):
    """A sparse matrix [K, X] of few rows on the model's device."""

    columns: Tensor
    weights: Tensor
    row_bags: Tensor

    def __init__(self, matrix: SparseMatrix, num_columns: int) -> None:
        super().__init__()
        self.matrix, self.num_columns = matrix, num_columns
        self._bag_starts, row_bags = cut_rows(matrix.starts, BAG)
        self.register_buffer("columns", torch.from_numpy(matrix.columns), persistent=False)
        self.register_buffer("weights", torch.from_numpy(matrix.weights), persistent=False)
        first_bags = torch.from_numpy(row_bags.astype(np.int32))
        self.register_buffer("row_bags", first_bags, persistent=False)
        self._on_gpu: GpuForm | None = None

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        self._on_gpu = None
        if self.columns.is_cuda:
            rows, columns = bags_of(self.matrix), entries_of(self._transposed.matrix)
            rows, columns = tree_map_only(Tensor, move, (rows, columns))
            entries = rows.entries._replace(columns=self.columns, weights=self.weights)
            self._on_gpu = GpuForm(rows._replace(entries=entries), columns)
        return self

    @property
    def nbytes(self) -> int:
        """Return the bytes of matrix and buffers; on a CPU without the transposed matrix."""
        return self.matrix.nbytes + bytes_of(self._on_gpu)

    def times(self, dense_XD: Tensor) -> Tensor:
        """Return the product of the matrix with `dense_XD` -> [K, D]."""
        if self._on_gpu is not None:
            return self._on_gpu.rows.times(dense_XD)
        first_bags = range(0, len(self._bag_starts) - 1, BAGS)
        sums = torch.cat([self._sums(dense_XD, first) for first in first_bags])
        if len(sums) == self.matrix.num_rows:
            return sums
        bags = torch.arange(len(sums), dtype=torch.int32, device=sums.device)
        return F.embedding_bag(bags, sums, self.row_bags, mode="sum", include_last_offset=True)

    def times_in_blocks(self, dense_XD: Tensor) -> Tensor:
        """Return the product as `products_in_blocks` does, for any owners of rows -> [K, D]."""
        starts = torch.from_numpy(self.matrix.starts.astype(np.int32)).to(self.columns.device)
        return times_in_blocks(Entries(starts, self.columns, self.weights), dense_XD)

    def _sums(self, dense_XD: Tensor, first: int) -> Tensor:
        """Return the sums of BAGS bags."""
        starts = self._bag_starts[first : first + BAGS + 1]
        return F.embedding_bag(
            self.columns[starts[0] : starts[-1]],
            dense_XD,
            torch.from_numpy((starts - starts[0]).astype(np.int32)),
            mode="sum",
            per_sample_weights=self.weights[starts[0] : starts[-1]].to(dense_XD.dtype),
            include_last_offset=True,
        )

    def add_transposed(self, out_XD: Tensor, dense_KD: Tensor, num_items: int) -> None:
        """Add the product of the transposed matrix with `dense_KD` to `out_XD` in place."""
        if len(self.columns) <= FEW and self._on_gpu is None:
            starts = torch.from_numpy(self.matrix.starts.astype(np.int32))
            rows = Entries(starts, self.columns, self.weights)
            rows.add_transposed(out_XD, dense_KD, num_items)
            return
        size = max(1, working_set(out_XD) // max(1, out_XD[:1].nbytes))
        for first in range(0, len(out_XD), size):
            rows = self._columns_between(first, min(first + size, len(out_XD)))
            out_XD[first : first + size] += rows.times(dense_KD)

    def _columns_between(self, first: int, last: int) -> Entries:
        if self._on_gpu is None:
            return self._transposed.between(first, last)
        starts, columns, weights = self._on_gpu.columns
        start, stop = self._transposed.matrix.starts[[first, last]].tolist()
        starts = starts[first : last + 1] - start if start else starts[: last + 1]
        return Entries(starts, columns[start:stop], weights[start:stop])

    @cached_property
    def _transposed(self) -> DeviceMatrix:
        matrix = self.matrix
        shape = matrix.num_rows, self.num_columns
        by_column = csr_array((matrix.weights, matrix.columns, matrix.starts), shape=shape).tocsc()
        starts, rows = by_column.indptr.astype(np.int64), by_column.indices.astype(np.int32)
        return DeviceMatrix(SparseMatrix(starts, rows, by_column.data))
