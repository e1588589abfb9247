"""Weights of a pair of events by their distance: of co-occurrence (Eq. 1-2) and of transitions.

A pair counts forward, from its earlier to its later item, and backward. Its code is twice its
distance, plus 1 if it is taken backward. Weights are int64 in fixed point, so a sum does not depend
on its order.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mdsrec.arrays import Floats, Ints

SCALE = math.lcm(*range(1, 31))  # 2.3e12: 1/d is exact up to d = 30, within 2.2e-13 beyond


@dataclass(frozen=True, kw_only=True)
class Weighting(ABC):
    """The weights of a pair; pairs farther apart than `max_distance` count nothing."""

    key: ClassVar[str]  # of the configuration, for max_distance
    counts_itself: ClassVar[bool]  # whether a pair of an item with itself counts

    max_distance: int | None = None

    @property
    def scale(self) -> int:
        """Return the integer that represents a weight of 1."""
        return SCALE

    @abstractmethod
    def forward(self, reach: int) -> Floats:
        """Return the weights of the distances 1, 2, ..., `reach`, times `scale`."""

    def backward(self, reach: int) -> Floats:
        """Return the same weights backward."""
        return self.forward(reach)

    def table(self, reach: int) -> Ints:
        """Return the fixed-point weight of each code up to `reach`; that of distance 0 is 0."""
        weights = np.zeros((reach + 1, 2))
        weights[1:] = np.stack([self.forward(reach), self.backward(reach)], axis=1)
        return np.rint(weights).astype(np.int64).reshape(-1)

    def reach(self, num_events: int) -> int:
        """Return the largest distance that counts in a history of `num_events`."""
        longest = max(num_events - 1, 0)
        return longest if self.max_distance is None else min(longest, self.max_distance)

    def total(self, num_events: int) -> float:
        """Return the weight of all pairs of a history, forward only.

        It includes pairs of an item with itself.
        """
        reach = self.reach(num_events)
        num_pairs = num_events - np.arange(1, reach + 1)
        return float((num_pairs * (self.forward(reach) / self.scale)).sum())


def code_bits(reach: int) -> int:
    """Return the bits of the largest code."""
    return (2 * reach + 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class Cooccurrence(Weighting):
    """1/d in both directions, or 1 without `distance`."""

    key = "graph.max_distance"
    counts_itself = False

    distance: bool = True

    @property
    def scale(self) -> int:
        return SCALE if self.distance else 1

    def forward(self, reach: int) -> Floats:
        if not self.distance:
            return np.ones(reach)
        return self.scale / np.arange(1, reach + 1)


@dataclass(frozen=True, kw_only=True)
class Transitions(Weighting):
    """decay^(d-1) forward and `reverse` times that backward."""

    key = "transitions.max_distance"
    counts_itself = True  # an item that is bought again

    decay: float
    reverse: float

    def forward(self, reach: int) -> Floats:
        factors = np.full(reach, self.decay)
        factors[:1] = self.scale
        return np.cumprod(factors)  # and not a power, whose last bits depend on the machine

    def backward(self, reach: int) -> Floats:
        return self.reverse * self.forward(reach)
