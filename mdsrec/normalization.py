"""Normalization of co-occurrence scores, N(O) of Eq. 3, for modal features and ids alike."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdsrec.arrays import Floats, Ints


def normalized_scores(rows: Ints, columns: Ints, scores: Floats, how: str) -> Floats:
    """Return the entries of N(O), given those of a symmetric O.

    `how` is row (divide by the row sum), symmetric (D^-1/2 O D^-1/2 with the row sums D) or none.
    """
    if how == "none" or not len(rows):
        return scores
    return divided_scores(rows, columns, scores, how, np.bincount(rows, weights=scores))


def divided_scores(
    rows: Ints, columns: Ints, scores: Floats, how: str, degree: NDArray[Any]
) -> Floats:
    """Return the entries of N(O), given the row sums `degree` of O; `how` is row or symmetric."""
    divisor = degree[rows] if how == "row" else np.sqrt(degree[rows] * degree[columns])
    weights: Floats = scores / divisor
    return weights
