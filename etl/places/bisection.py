"""A tree that halves a sample of vectors again and again, so that near vectors share its leaves.

n vectors, d width, L levels. A node divides its vectors at the median of their projections on a
direction: that between the means of its halves, found by 2-means whose halves have equal sizes.

2-means needs a start. Whitened vectors differ alike in all directions, so it would end in a poor
division there. It starts from the direction of greatest variance of the *plain* vectors, improves
the halves among these, and then among the whitened ones, where neighbors are searched.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from etl.spark.vector_table import Vectors
from mdsrec.arrays import Ints

LEAF_SIZE = 64  # most vectors of the sample in a leaf
POWER_ITERATIONS = 5
ITERATIONS = 10  # of 2-means
ROWS_AT_A_TIME = 4096  # whose directions are gathered

Halves = npt.NDArray[np.bool_]  # True in the right half


@dataclass(frozen=True)
class Tree:
    """A complete binary tree: the children of node i are 2 i + 1, left, and 2 i + 2, right.

    A vector goes right if its projection exceeds the threshold. A leaf has a direction too, which
    orders its vectors. Vectors that are all equal are not divided: direction and threshold are 0.
    """

    directions: Vectors  # [2^(L + 1) - 1, d]
    thresholds: Vectors  # [2^L - 1]

    @property
    def num_leaves(self) -> int:
        return len(self.thresholds) + 1

    def locate(self, rows: Vectors) -> tuple[Ints, Vectors]:
        """Return the leaf of each row, counted from the left, and its projection there [n]."""
        leaves, positions = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32)
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            here = slice(first, first + ROWS_AT_A_TIME)
            leaves[here], positions[here] = self._locate(rows[here])
        return leaves, positions

    def _locate(self, rows: Vectors) -> tuple[Ints, Vectors]:
        node = np.zeros(len(rows), np.int64)
        for _ in range(self.num_leaves.bit_length() - 1):
            right = project(rows, self.directions[node]) > self.thresholds[node]
            node = 2 * node + 1 + right
        return node - len(self.thresholds), project(rows, self.directions[node])


def fit_tree(plain: Vectors, rows: Vectors) -> Tree:
    """Return the tree of a sample: `plain` [n, e] start the divisions of `rows` [n, d]."""
    num_levels = max(0, (len(rows) - 1).bit_length() - (LEAF_SIZE.bit_length() - 1))
    num_inner = (1 << num_levels) - 1
    directions = np.zeros((2 * num_inner + 1, rows.shape[1]), np.float32)
    thresholds = np.zeros(num_inner, np.float32)
    members = {0: np.arange(len(rows))}
    for node in range(2 * num_inner + 1):
        here = members.pop(node)
        direction = find_direction(plain[here], rows[here])
        right, threshold = np.zeros(len(here), bool), np.float32(0)
        if direction is not None:
            directions[node] = direction
            right, threshold = halve(project(rows[here], directions[node]))
        if node < num_inner:
            thresholds[node] = threshold
            members[2 * node + 1], members[2 * node + 2] = here[~right], here[right]
    return Tree(directions, thresholds)


def find_direction(plain: Vectors, rows: Vectors) -> Vectors | None:
    """Return the direction that divides the rows; None if they are equal, or there are none."""
    if len(rows) < 2:
        return None
    right, _ = halve(project(plain, _widest_direction(plain)))
    right, _ = _improve(plain, right)
    _, direction = _improve(rows, right)
    return direction


def project(rows: Vectors, directions: Vectors) -> Vectors:
    """Return the inner product of each row with its direction, or with the same one.

    A matrix product would round equal rows differently.
    """
    pairs = "nd,nd->n" if directions.ndim == 2 else "nd,d->n"
    return np.asarray(np.einsum(pairs, rows, directions))


def halve(positions: Vectors) -> tuple[Halves, np.float32]:
    """Divide numbers at the gap nearest to their middle -> (who is right, threshold).

    If they are all equal, none is right.
    """
    ascending = np.sort(positions)
    gaps = np.flatnonzero(ascending[1:] > ascending[:-1])
    if len(gaps) == 0:
        return np.zeros(len(positions), bool), np.float32(0)
    last = gaps[np.abs(2 * (gaps + 1) - len(positions)).argmin()]
    threshold = (ascending[last] + ascending[last + 1]) / 2
    if threshold == ascending[last + 1]:  # the two are next to each other in float32
        threshold = ascending[last]
    return positions > threshold, threshold


def _improve(rows: Vectors, right: Halves) -> tuple[Halves, Vectors | None]:
    """Return the halves after 2-means, and the direction between their means, if both exist."""
    direction = None
    for _ in range(ITERATIONS):
        if right.all() or not right.any():
            break
        direction = rows[right].mean(axis=0) - rows[~right].mean(axis=0)
        before, (right, _) = right, halve(project(rows, direction))
        if (right == before).all():
            break
    return right, direction


def _widest_direction(rows: Vectors) -> Vectors:
    """Return about the direction of greatest variance, starting from the vector farthest out."""
    mean = rows.mean(axis=0)
    direction = rows[np.square(rows - mean).sum(axis=1).argmax()] - mean
    for _ in range(POWER_ITERATIONS):
        along = project(rows, direction)
        turned = np.einsum("n,nd->d", along - along.mean(), rows)
        length = np.linalg.norm(turned)
        if length == 0:
            break
        direction = turned / length
    return np.asarray(direction)
