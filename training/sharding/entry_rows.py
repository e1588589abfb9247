"""Rows of a sparse matrix from entries that arrive in any order.

Beside the result, memory holds each entry once, and a block of entries while it is sorted.

n rows with an entry.
"""

from collections.abc import Iterable

import numpy as np

from mdsrec.arrays import Floats, Ints
from training.data.sparse import SparseMatrix

BLOCK = 1 << 20  # entries that are sorted together

Parts = tuple[Ints, Ints, Floats]  # row, column and weight of entries


def rows_of_entries(batches: Iterable[Parts]) -> tuple[Ints, SparseMatrix]:
    """Return the rows that have an entry [n], ascending, and these rows, in order of columns.

    No two entries have the same row and column.
    """
    kept = [(r.astype(np.int32), c.astype(np.int32), w.astype(np.float32)) for r, c, w in batches]
    rows = np.unique(np.concatenate([np.empty(0, np.int32), *(np.unique(r) for r, _, _ in kept)]))
    starts = np.zeros(len(rows) + 1, np.int64)
    for of_batch, _, _ in kept:
        present, counts = np.unique(of_batch, return_counts=True)
        starts[1 + np.searchsorted(rows, present)] += counts
    np.cumsum(starts, out=starts)
    columns, weights = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    free = starts[:-1].copy()  # place of the next entry of each row
    kept.reverse()
    while kept:
        of_batch, of_columns, of_weights = kept.pop()
        order = np.argsort(of_batch, kind="stable")
        present, first, counts = np.unique(of_batch[order], return_index=True, return_counts=True)
        numbers = np.searchsorted(rows, present)
        places = np.arange(len(order)) + np.repeat(free[numbers] - first, counts)
        columns[places], weights[places] = of_columns[order], of_weights[order]
        free[numbers] += counts
    _sort_columns(starts, columns, weights)
    return rows, SparseMatrix(starts, columns, weights)


def _sort_columns(starts: Ints, columns: Ints, weights: Floats) -> None:
    """Sort the entries of each row by column in place, some rows at a time."""
    first = 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + BLOCK, "right")) - 1)
        block = slice(starts[first], starts[last])
        numbers = np.repeat(np.arange(last - first), np.diff(starts[first : last + 1]))
        order = np.lexsort((columns[block], numbers))
        columns[block], weights[block] = columns[block][order], weights[block][order]
        first = last
