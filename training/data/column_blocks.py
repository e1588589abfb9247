"""Products with the item embedding whose sums have the same bits wherever its rows are.

A row of N(O) (Eq. 3) or of C Ahat (Eq. 11) has entries of any number of items. Its product with E
is the sum of those of COLUMNS items each, in ascending order. So a process that owns some rows can
read E a block at a time, and finds what one that holds all of E does.

X items, D width, n rows of a sparse matrix.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mdsrec.arrays import Ints
from training.data.sparse import Entries, SparseMatrix

COLUMNS = 1 << 16
ROWS = 8192  # whose products are held at a time


def times_in_blocks(entries: Entries, dense_XD: Tensor) -> Tensor:
    """Return the product of rows, whose columns ascend, with all of E -> [n, D]."""
    if len(dense_XD) <= COLUMNS or not len(entries.columns):
        return entries.times(dense_XD)
    blocks = entries.columns // COLUMNS
    is_first = F.pad(blocks[1:] != blocks[:-1], (1, 1), value=True)  # of a part, or the end
    is_first[entries.starts.long()] = True
    starts = is_first.nonzero().squeeze(1)
    sums_of_parts = entries._replace(starts=starts.int()).times(dense_XD)
    parts = torch.arange(len(sums_of_parts), dtype=torch.int32, device=starts.device)
    first_parts = torch.searchsorted(starts, entries.starts.long(), out_int32=True)
    return F.embedding_bag(parts, sums_of_parts, first_parts, mode="sum", include_last_offset=True)


def products_in_blocks(
    matrices: Sequence[SparseMatrix], blocks_of_rows: Iterable[Tensor]
) -> list[Tensor]:
    """Return the product of each matrix with E [n, D], whose rows come COLUMNS at a time."""
    cut = [_ColumnBlocks(matrix) for matrix in matrices]
    products: list[Tensor] = []
    for number, dense in enumerate(blocks_of_rows):
        if not number:
            products = [dense.new_zeros(matrix.num_rows, dense.shape[1]) for matrix in matrices]
        for matrix, product in zip(cut, products, strict=True):
            matrix.add_product(number, dense, product)
    return products


class _ColumnBlocks:
    """The entries of a sparse matrix in order of blocks of columns, then of rows."""

    def __init__(self, matrix: SparseMatrix) -> None:
        blocks = matrix.columns // COLUMNS
        order = np.argsort(blocks, kind="stable")
        rows = np.repeat(np.arange(matrix.num_rows, dtype=np.int32), np.diff(matrix.starts))
        self._rows, self._columns = rows[order], matrix.columns[order]
        self._weights = matrix.weights[order]
        self._ends = np.cumsum(np.bincount(blocks))

    def add_product(self, number: int, dense: Tensor, out_nD: Tensor) -> None:
        """Add the product of one block of columns with its rows of E to `out_nD`."""
        if number >= len(self._ends):
            return
        first, last = (self._ends[number - 1] if number else 0), self._ends[number]
        rows, starts = np.unique(self._rows[first:last], return_index=True)
        edges = np.append(starts, last - first) + first
        for start in range(0, len(rows), ROWS):
            part = edges[start : start + ROWS + 1]
            added = self._entries(part, number, dense.device).times(dense)
            index = torch.from_numpy(rows[start : start + ROWS]).to(dense.device)
            out_nD.index_add_(0, index, added)

    def _entries(self, edges: Ints, number: int, device: torch.device) -> Entries:
        """Return the entries between edges as rows; columns count from the first of the block."""
        first, last = edges[0], edges[-1]
        columns = self._columns[first:last] - np.int32(number * COLUMNS)
        parts = (edges - first).astype(np.int32), columns, self._weights[first:last]
        return Entries(*(torch.from_numpy(part).to(device) for part in parts))
