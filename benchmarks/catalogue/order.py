"""Orders of n numbers that are computed, not stored, so that a catalogue of any size needs none.

A *position* is a place on a line where neighbors are near and popular items are spread out: its
*level* is the number of times that 2 divides it, so half of the positions have level 0, a quarter
level 1 and so on. A *number* is an item or its index in a modality. Numbers are positions scattered
by a multiplication, so neighbors on the line are far apart in a table.
"""

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np

from mdsrec.arrays import Counts

GOLDEN = 0.618033988749895
REVERSED = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], dtype=np.int64)


@dataclass(frozen=True)
class Order:
    """A bijection of [0, n) between numbers and positions; `stream` chooses one of many."""

    n: int
    stream: int = 0

    @cached_property
    def factor(self) -> int:
        """Return a multiplier that has no divisor in common with n."""
        factor = max(1, int(self.n * ((self.stream + 1) * GOLDEN % 1)))
        while gcd(factor, self.n) > 1:
            factor += 1
        return factor

    @cached_property
    def inverse(self) -> int:
        return pow(self.factor, -1, self.n)

    @cached_property
    def top(self) -> int:
        """Return the level of position 0, above that of every other."""
        return (self.n - 1).bit_length()

    def numbers(self, positions: Counts) -> Counts:
        return positions * self.factor % self.n

    def positions(self, numbers: Counts) -> Counts:
        return numbers * self.inverse % self.n

    def levels(self, positions: Counts) -> Counts:
        """Return the level of each position."""
        trailing = np.bitwise_count((positions & -positions) - 1).astype(np.int64)
        return np.where(positions == 0, self.top, trailing)

    def by_popularity(self, ranks: Counts) -> Counts:
        """Return the number of each rank of popularity, the most popular first.

        The position is the rank with its bits reversed, so the first ranks have high levels. A
        rank whose reversal is n or more keeps its own place; reversing again would return it.
        """
        reversed_bits = np.zeros_like(ranks)
        for byte in range(0, 40, 8):
            reversed_bits |= REVERSED[(ranks >> byte) & 255] << (32 - byte)
        mirrored = reversed_bits >> (40 - self.top)
        return self.numbers(np.where(mirrored < self.n, mirrored, ranks))
