"""Pairs of events and their sums by key, in the numbers of Eq. 1-2: what runs inside a task.

A key is item * num_items + other. On its way to its sum a pair is one int64: the key, counted from
the start of a part, and the distance. Weights are int64 in fixed point, so a sum does not depend on
its order; both directions of a pair are summed alike, so O is symmetric to the bit.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]

SCALE = math.lcm(*range(1, 31))  # 2.3e12: 1/d is exact to d = 30, within 2.2e-13 beyond
PIECE = 1 << 12  # events of a history that pairs begin with; the rest stand in further pieces
BLOCK = 1 << 17  # pairs made at a time: they stay in a core's cache
FLUSH = 1 << 20  # pairs cut into parts at a time
COMBINE_AT = 1 << 23  # packed pairs held before those of equal keys are added
PART = 1 << 22  # ends of pairs in a part
TOO_MUCH = 2.0**63 * (1 - 2**-20)  # a sum in float64 errs by less


@dataclass(frozen=True)
class Weighting:
    """What a pair of events counts: 1/(q-p), or 1 without `distance`; nothing past
    `max_distance`.
    """

    distance: bool = True
    max_distance: int | None = None

    @property
    def scale(self) -> int:
        return SCALE if self.distance else 1

    def table(self, longest: int) -> Ints:
        """The weight in fixed point of each distance up to `longest`; of 0, which is none, 0."""
        weights = np.full(longest + 1, self.scale, np.float64)
        if self.distance:
            weights[1:] /= np.arange(1, longest + 1)
        weights[0] = 0
        return np.rint(weights).astype(np.int64)

    def reach(self, num_events: int) -> int:
        """The highest distance that counts between so many events."""
        longest = max(num_events - 1, 0)
        return longest if self.max_distance is None else min(longest, self.max_distance)

    def total(self, num_events: int) -> float:
        """The weight of the pairs of so many events, if no two are of the same item."""
        apart = np.arange(1, self.reach(num_events) + 1)
        return float(((num_events - apart) / (apart if self.distance else 1)).sum())


class Histories(NamedTuple):
    """Users' events one after the other."""

    items: Ids
    lengths: Ints


class Pairs(NamedTuple):
    """The items of two events, in the order of time, and how far apart they are."""

    earlier: Ids
    later: Ids
    apart: Ids


class Parts(NamedTuple):
    """Ranges of keys; the last bound ends the last part. The low `bits` of a packed pair are its
    distance.
    """

    bounds: Ints
    bits: int


class Sums(NamedTuple):
    """Ascending keys, each once, and the sums of their weights in fixed point."""

    keys: Ints
    weights: Ints


class SumOverflowError(Exception):
    """The sum of a key, counted from the start of its part, passes int64."""

    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.key = key


def part_bounds(ends: Ints, width: int, num_items: int, bits: int, part_size: int = PART) -> Parts:
    """Parts of about `part_size` ends of pairs, where items [width * n, width * (n + 1)) have
    `ends[n]`.

    Items that have more are cut by their other items; so is a range of keys too wide to be packed.
    """
    before = np.cumsum(ends) - ends
    begins = np.diff(before // part_size, prepend=-1) > 0
    first = np.flatnonzero(begins | (ends >= part_size))
    sizes = np.add.reduceat(ends, first)
    starts = [*(first * width).tolist(), num_items]
    bounds = []
    for size, item, end in zip(sizes.tolist(), starts[:-1], starts[1:], strict=True):
        keys = (end - item) * num_items
        cuts = max(1, min(keys, size // part_size), -(-keys >> (63 - bits)))
        bounds += [item * num_items + keys * cut // cuts for cut in range(cuts)]
    return Parts(np.array([*bounds, num_items * num_items], np.int64), bits)


def ends_of_pairs(histories: Histories, max_distance: int | None) -> Ints:
    """Of how many pairs each event is an end, as the earlier or the later one."""
    reach = len(histories.items) if max_distance is None else max_distance
    lengths = np.repeat(histories.lengths, histories.lengths)
    before = _places(histories.lengths)
    ends: Ints = np.minimum(before, reach) + np.minimum(lengths - 1 - before, reach)
    return ends


def emitted(histories: Histories, reach: int) -> Iterator[Pairs]:
    """Every pair of unequal items of a user's events up to `reach` apart, up to BLOCK at a time.
    Pairs begin with the first PIECE events of each history.

    A block holds some events' pairs at one distance, or at several when few events reach so far: a
    long history then costs as little a pair as a short one.
    """
    items, lengths = histories
    before = _places(lengths)
    after = np.minimum(np.repeat(lengths, lengths) - 1 - before, reach)
    begins = np.flatnonzero((before < PIECE) & (after > 0))
    for first in range(0, len(begins), BLOCK):
        here = begins[first : first + BLOCK]
        yield from _by_distance(items, here, after[here])


def _places(lengths: Ints) -> Ints:
    """The position of every event in its history."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _by_distance(items: Ids, here: Ints, after: Ints) -> Iterator[Pairs]:
    distance = 1
    while here.size:
        width = max(1, min(BLOCK // here.size, distance // 8))
        apart = np.arange(distance, distance + width, dtype=np.int32)[:, None]
        later = items.take(here + apart, mode="clip")
        earlier = np.broadcast_to(items[here], later.shape)
        pair = (later != earlier) & (apart <= after)
        yield Pairs(earlier[pair], later[pair], np.broadcast_to(apart, later.shape)[pair])
        distance += width
        reaches = after >= distance
        here, after = here[reaches], after[reaches]


def flushed(blocks: Iterable[Pairs]) -> Iterator[Pairs]:
    """The same pairs, about FLUSH at a time."""
    held: list[Pairs] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += len(block.apart)
        if size >= FLUSH:
            yield _joined(held)
            held, size = [], 0
    if size:
        yield _joined(held)


def _joined(held: list[Pairs]) -> Pairs:
    return Pairs(*(np.concatenate(column) for column in zip(*held, strict=True)))


def by_part(pairs: Pairs, num_items: int, parts: Parts) -> Iterator[tuple[int, Ints]]:
    """(part, packed pairs) of both directions, for each part that has some."""
    one, other = pairs.earlier.astype(np.int64), pairs.later.astype(np.int64)
    keys = np.concatenate([one * num_items + other, other * num_items + one])
    keys, apart = sorted_with(keys, np.concatenate([pairs.apart, pairs.apart]))
    edges = np.searchsorted(keys, parts.bounds)
    for part in np.flatnonzero(np.diff(edges)).tolist():
        here = slice(edges[part], edges[part + 1])
        yield part, (keys[here] - parts.bounds[part]) << parts.bits | apart[here]


def totals(packed: Iterable[Ints], bits: int, weight_of: Ints) -> Sums:
    """The sum of every key over all packed pairs of a part. What is held grows with the number of
    keys, not of pairs.
    """
    pairs: list[Ints] = []
    sums = Sums(np.empty(0, np.int64), np.empty(0, np.int64))
    size = 0
    for blob in packed:
        pairs.append(blob)
        size += len(blob)
        if size >= max(COMBINE_AT, len(sums.keys)):
            sums = _with_pairs(sums, pairs, bits, weight_of)
            pairs, size = [], 0
    return _with_pairs(sums, pairs, bits, weight_of)


def _with_pairs(sums: Sums, pairs: list[Ints], bits: int, weight_of: Ints) -> Sums:
    if not pairs:
        return sums
    packed = np.concatenate(pairs)
    packed.sort()
    added = _summed(packed >> bits, weight_of[packed & ((1 << bits) - 1)])
    if not len(sums.keys):
        return added
    keys = np.concatenate([sums.keys, added.keys])
    keys, order = sorted_with(keys, np.arange(len(keys)))
    return _summed(keys, np.concatenate([sums.weights, added.weights])[order])


def _summed(keys: Ints, weights: Ints) -> Sums:
    """The weights of equal keys added; the keys ascend."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    most_added = int(np.diff(starts, append=len(keys)).max())
    if most_added * int(weights.max()) >= TOO_MUCH:
        sums = np.add.reduceat(weights.astype(np.float64), starts)
        if sums.max() >= TOO_MUCH:
            raise SumOverflowError(int(keys[starts[sums.argmax()]]))
    return Sums(keys[starts], np.add.reduceat(weights, starts))


def sorted_with(keys: Ints, beside: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Ascending keys, each with the number (0 or more) that stood beside it.

    Where both fit into 63 bits they are sorted as one number, several times faster than an argsort.
    """
    bits = int(beside.max(initial=0)).bit_length()
    if int(keys.max(initial=0)).bit_length() + bits > 63:
        order = np.argsort(keys)
        return keys[order], beside[order].astype(np.int64)
    packed = keys << bits
    packed |= beside
    packed.sort()
    return packed >> bits, packed & ((1 << bits) - 1)
