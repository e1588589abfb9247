"""N(O): how co-occurrence scores become weights in Eq. 3, for modal features and ids alike."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]


def normalized(rows: Ints, columns: Ints, scores: Floats, how: str) -> Floats:
    """Weights of the entries of a symmetric O: by row sum, D^-1/2 O D^-1/2, or as they are."""
    if how == "none" or not len(rows):
        return scores
    degree = np.bincount(rows, weights=scores)
    divisor = degree[rows] if how == "row" else np.sqrt(degree[rows] * degree[columns])
    weights: Floats = scores / divisor
    return weights
