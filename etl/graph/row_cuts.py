"""The heaviest entries of each row of a sparse matrix, in CSR form with sorted columns."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array


class Cut(NamedTuple):
    """Entries that are left out of a matrix."""

    rows: int  # that have such entries
    weight: float  # of all entries of the matrix
    lost: float  # weight of those left out


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
