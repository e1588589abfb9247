"""Whitening of Ebar (Eq. 3) before the cosines of Eq. 4; not in the paper.

Text vectors of one category share most of their length with each other: all cosines are high, and
few directions decide who is near. Whitened vectors have mean 0 and the same variance in every
direction, so that all of what an encoder says counts.

n items, d width.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from etl.spark.vector_table import Vectors
from mdsrec.arrays import Floats

LEAST_SHARE = 0.05  # of the largest variance: what varies less is mostly noise, and grows no more


@dataclass(frozen=True)
class Whitening:
    """The map x -> (x - mean) W, where W is symmetric: the directions of x keep their meaning."""

    mean: Floats  # [d]
    W: Floats  # [d, d]

    @classmethod
    def fit(cls, vectors: Vectors) -> Self:
        """Return the map that gives `vectors` [n, d] mean 0 and covariance 1.

        Directions with less than LEAST_SHARE of the largest variance are scaled as if they had it.
        """
        mean = vectors.mean(axis=0, dtype=np.float64)
        centered = vectors - mean
        variances, directions = np.linalg.eigh(centered.T @ centered / len(centered))
        least = max(variances[-1] * LEAST_SHARE, np.finfo(np.float64).tiny)
        scale = 1 / np.sqrt(np.maximum(variances, least))
        return cls(mean, (directions * scale) @ directions.T)

    def __call__(self, rows: Floats) -> Floats:
        """Return whitened rows [n, d]."""
        return np.asarray((rows - self.mean) @ self.W)
