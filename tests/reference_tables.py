"""Item tables in their plain forms, which hold every entry at once: oracles of the others."""

import numpy as np

from mdsrec.arrays import Floats, Ints
from training.data.sparse import SparseMatrix


def normalized_scores(rows: Ints, columns: Ints, scores: Floats, how: str) -> Floats:
    """Return the entries of N(O), given those of a symmetric O; `how` is row, symmetric or none."""
    if how == "none" or not len(rows):
        return scores
    degree = np.bincount(rows, weights=scores)
    divisor = degree[rows] if how == "row" else np.sqrt(degree[rows] * degree[columns])
    weights: Floats = scores / divisor
    return weights


def sparse_matrix(rows: Ints, columns: Ints, weights: Floats, num_rows: int) -> SparseMatrix:
    """Build a sparse matrix from its entries, which are sorted by row."""
    starts = np.zeros(num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=num_rows), out=starts[1:])
    return SparseMatrix(starts, columns.astype(np.int32), weights.astype(np.float32))


def adjacency(
    items: Ints,
    lengths: Ints,
    neighbors: Ints,
    num_items: int,
    num_neighbors: int,
    include_self: bool,
) -> SparseMatrix:
    """Return Ahat^m (Eq. 5): the first H neighbors of each item, and itself if `include_self`.

    `neighbors` holds the stored lists of `items` one after the other, and `lengths` their lengths.
    """
    position = np.arange(len(neighbors)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first = position < num_neighbors
    rows, columns = np.repeat(items, lengths)[first], neighbors[first]
    own = np.bincount(rows, minlength=num_items) == 0
    if include_self:
        own[items] = True
    rows = np.concatenate([rows, np.flatnonzero(own)])
    columns = np.concatenate([columns, np.flatnonzero(own)])
    order = np.argsort(rows, kind="stable")
    return sparse_matrix(rows[order], columns[order], np.ones(len(rows)), num_items)


def membership(items: Ints, centers: Ints, num_centers: int) -> SparseMatrix:
    """Return C^m (Eq. 10-11), whose rows average over a center's members; zero without members."""
    order = np.argsort(centers, kind="stable")
    counts = np.bincount(centers, minlength=num_centers)
    weights = 1.0 / counts[centers[order]]
    return sparse_matrix(centers[order], items[order], weights, num_centers)


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
