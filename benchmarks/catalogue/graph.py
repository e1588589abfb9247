"""Graphs of items by formula: any rows can be computed by themselves, in order.

Two items co-occur if their positions (`order.py`) are at most reach(l) apart, where l is the higher
of their levels. reach(l) grows as 2^(REACH_TAIL l), so a few popular items co-occur with very many,
and the graph is symmetric. A neighbor list holds the items beside an item and a few popular ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from benchmarks.catalogue.order import Order
from mdsrec.arrays import Counts, Floats

Items = npt.NDArray[np.int32]

LOW_BITS = (1 << 32) - 1
REACH_TAIL = 0.8
WITHOUT = 20  # one of so many items lacks a modality
HOT_EVERY, HOT_STEP = 4, 3  # every 4th neighbor is a popular item, of level 3, 6, 9, ...


@dataclass(frozen=True)
class Cooccurrence:
    """A symmetric graph with about `degree` others an item; the score is 1 / distance."""

    order: Order
    degree: int

    @cached_property
    def reaches(self) -> Counts:
        """Return the reach of each level, scaled to the degree."""
        levels = np.arange(self.order.top + 1)
        share = 0.5 ** (levels + 1)
        both = 2 - 1.5 * 0.5**levels  # a pair of unequal levels is an entry of both rows
        reach = 2 ** (REACH_TAIL * levels)
        scale = self.degree / (share * 2 * reach * both).sum()
        scaled = np.maximum(np.round(scale * reach), 1).astype(np.int64)
        reaches: Counts = np.minimum(scaled, self.order.n - 1)
        return reaches

    def rows(self, first: int, last: int) -> tuple[Items, Items, Floats]:
        """Return item, other and score of the rows first <= item < last, sorted."""
        positions = self.order.positions(np.arange(first, last))
        levels = self.order.levels(positions)
        keys = [self._within_own_reach(positions, levels)]
        for level in range(1, self.order.top + 1):
            keys += self._from_higher(positions, levels, level)
        key = np.concatenate(keys)
        key.sort()
        row = (key >> 32).astype(np.int32)
        other = (key & LOW_BITS).astype(np.int32)
        distance = np.abs(positions[row] - self.order.positions(key & LOW_BITS))
        return row + np.int32(first), other, 1.0 / distance

    def _within_own_reach(self, positions: Counts, levels: Counts) -> Counts:
        reach = self.reaches[levels]
        low = np.maximum(positions - reach, 0)
        lengths = np.minimum(positions + reach, self.order.n - 1) - low
        row = np.repeat(np.arange(len(positions)), lengths)
        others = np.arange(len(row)) + (low - (np.cumsum(lengths) - lengths))[row]
        others += others >= positions[row]  # all but the item itself
        return self._keys(row, others)

    def _from_higher(self, positions: Counts, levels: Counts, level: int) -> Iterator[Counts]:
        """Yield the entries of rows of lower levels in columns of this level, beyond own reach.

        Positions of this level are the odd multiples of 2^level, and 0 for the highest.
        """
        reach, is_top = int(self.reaches[level]), level == self.order.top
        row = np.flatnonzero((levels < level) & (self.reaches[levels] < reach))
        near, own_reach = positions[row], self.reaches[levels[row]]
        first = (-(-(near - reach) >> level) | 1) << level
        for step in range(1 if is_top else (reach >> level) + 1):
            other = np.zeros_like(near) if is_top else first + (step << (level + 1))
            distance = np.abs(other - near)
            usable = (distance <= reach) & (distance > own_reach)
            usable &= (other >= 0) & (other < self.order.n)
            yield self._keys(row[usable], other[usable])

    def _keys(self, row: Counts, positions: Counts) -> Counts:
        return (row << 32) | self.order.numbers(positions)


@dataclass(frozen=True)
class Modality:
    """The items that have the modality `stream`: all but every 20th. They have indices 0, 1, ..."""

    num_items: int
    stream: int

    @property
    def lacking(self) -> int:
        return (7 * self.stream + WITHOUT - 1) % WITHOUT

    @property
    def size(self) -> int:
        return self.num_items - len(range(self.lacking, self.num_items, WITHOUT))

    @cached_property
    def order(self) -> Order:
        return Order(self.size, self.stream + 1)

    def items(self, indices: Counts) -> Counts:
        block, inside = np.divmod(indices, WITHOUT - 1)
        return WITHOUT * block + inside + (inside >= self.lacking)

    def index(self, item: int) -> int:
        """Return how many items below this one have the modality."""
        return item - len(range(self.lacking, item, WITHOUT))

    def places(self, items: Counts) -> Counts:
        """Return where the items are on the line; those without the modality are behind it."""
        lacking_before = (items + WITHOUT - 1 - self.lacking) // WITHOUT
        on_line = self.order.positions(items - lacking_before)
        return np.where(items % WITHOUT == self.lacking, self.size + lacking_before, on_line)

    def clusters(self, indices: Counts, k: int) -> Counts:
        """Return in which of k equal parts of the line each item is."""
        return self.order.positions(indices) * k // self.size

    def neighbors(self, first: int, last: int, count: int) -> Counts:
        """Return the `count` < size neighbors of items with these indices -> [n, count]."""
        n, positions = self.size, self.order.positions(np.arange(first, last))
        levels = [HOT_STEP * (number + 1) for number in range(count // HOT_EVERY)]
        hot = [level for level in levels if 4 << level <= n - 4 * count]
        places = [HOT_EVERY * number + HOT_EVERY - 1 for number in range(len(hot))]
        columns = np.empty((count, len(positions)), dtype=np.int64)
        distance = 0
        for place in range(count):
            if place in places:
                columns[place] = self._popular(positions, hot[places.index(place)], count)
            else:
                distance = 1 - distance if distance <= 0 else -distance  # 1, -1, 2, -2, ...
                columns[place] = (positions + distance) % n
        return self.items(self.order.numbers(columns.T))

    def _popular(self, positions: Counts, level: int, margin: int) -> Counts:
        """Return the next position of exactly this level after the margin, or the one before."""
        after = _odd_multiple_from(positions + margin + 1, level)
        before = _odd_multiple_from(positions - margin - (2 << level), level)
        return np.where(after < self.size, after, before)


def _odd_multiple_from(positions: Counts, level: int) -> Counts:
    """Return the first odd multiple of 2^level that is not below each position."""
    half = 1 << level
    multiple: Counts = (-(-(positions - half) >> (level + 1)) << (level + 1)) + half
    return multiple
