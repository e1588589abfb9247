"""Pairs of events and their sums (Eq. 1-2): the numpy functions that run inside a task.

A key is item * num_items + other. Until it is summed, a pair is one int64 of its key, counted from
the start of a part, and its code (etl/graph/weighting.py). Both directions of a pair are summed, so
O is symmetric to the bit.

Work is measured in ends: each pair has two, its earlier and its later event.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdsrec.arrays import Ints

Ids = npt.NDArray[np.int32]

EVENTS_PER_PIECE = 1 << 12  # of a long history; pairs that begin with these are one task's work
PAIRS_PER_BLOCK = 1 << 17  # created at a time; they fit into a core's cache
PAIRS_PER_FLUSH = 1 << 20  # divided into parts at a time
PAIRS_PER_SUM = 1 << 23  # collected before those of equal keys are added
ENDS_PER_PART = 1 << 22
MAX_SUM = 2.0**63 * (1 - 2**-20)  # leaves room for the error of a sum in float64


class Histories(NamedTuple):
    """Users' events, concatenated."""

    items: Ids
    lengths: Ints


class Pairs(NamedTuple):
    """The items of two events in the order of time, and the distance of their positions."""

    earlier: Ids
    later: Ids
    distance: Ids


class Parts(NamedTuple):
    """Ranges of keys: part r is [bounds[r], bounds[r + 1]).

    The low `bits` of a packed pair are its code.
    """

    bounds: Ints
    bits: int


class Sums(NamedTuple):
    """Distinct keys, ascending, and the fixed-point sums of their weights."""

    keys: Ints
    weights: Ints


class SumOverflowError(Exception):
    """The sum of a key, counted from the start of its part, exceeds int64."""

    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.key = key


def part_bounds(
    ends: Ints, width: int, num_items: int, bits: int, part_size: int = ENDS_PER_PART
) -> Parts:
    """Divide the keys into parts of about `part_size` ends.

    Items [width * n, width * (n + 1)) have `ends[n]`. Items with more ends than a part are divided
    by their other items, and so is a range of keys that is too wide for a packed pair.
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


def count_ends(histories: Histories, max_distance: int | None) -> Ints:
    """Return for each event the number of pairs that it is an end of."""
    reach = len(histories.items) if max_distance is None else max_distance
    lengths = np.repeat(histories.lengths, histories.lengths)
    before = _positions(histories.lengths)
    ends: Ints = np.minimum(before, reach) + np.minimum(lengths - 1 - before, reach)
    return ends


def make_pairs(histories: Histories, reach: int, itself: bool = False) -> Iterator[Pairs]:
    """Yield the pairs of events up to `reach` apart, at most PAIRS_PER_BLOCK at a time.

    Without `itself` the items of a pair are different. Only pairs that begin with the first
    EVENTS_PER_PIECE events of a history are made. A block has the pairs of some events at one
    distance, or at several distances if few events reach that far, so a pair of a long history
    costs no more than one of a short history.
    """
    items, lengths = histories
    before = _positions(lengths)
    after = np.minimum(np.repeat(lengths, lengths) - 1 - before, reach)
    begins = np.flatnonzero((before < EVENTS_PER_PIECE) & (after > 0))
    for first in range(0, len(begins), PAIRS_PER_BLOCK):
        here = begins[first : first + PAIRS_PER_BLOCK]
        yield from _pairs_by_distance(items, here, after[here], itself)


def _positions(lengths: Ints) -> Ints:
    """Return the position of every event in its history."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _pairs_by_distance(items: Ids, here: Ints, after: Ints, itself: bool) -> Iterator[Pairs]:
    """Yield the pairs that begin at the events `here`, which reach `after` events further."""
    distance = 1
    while here.size:
        width = max(1, min(PAIRS_PER_BLOCK // here.size, distance // 8))
        distances = np.arange(distance, distance + width, dtype=np.int32)[:, None]
        later = items.take(here + distances, mode="clip")
        earlier = np.broadcast_to(items[here], later.shape)
        pair = distances <= after
        if not itself:
            pair &= later != earlier
        yield Pairs(earlier[pair], later[pair], np.broadcast_to(distances, later.shape)[pair])
        distance += width
        reaches = after >= distance
        here, after = here[reaches], after[reaches]


def merge_blocks(blocks: Iterable[Pairs]) -> Iterator[Pairs]:
    """Yield the same pairs, about PAIRS_PER_FLUSH at a time."""
    collected: list[Pairs] = []
    size = 0
    for block in blocks:
        collected.append(block)
        size += len(block.distance)
        if size >= PAIRS_PER_FLUSH:
            yield _concatenate(collected)
            collected, size = [], 0
    if size:
        yield _concatenate(collected)


def _concatenate(blocks: list[Pairs]) -> Pairs:
    return Pairs(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def split_by_part(pairs: Pairs, num_items: int, parts: Parts) -> Iterator[tuple[int, Ints]]:
    """Yield (part, packed pairs) of both directions, for each part that has some."""
    one, other = pairs.earlier.astype(np.int64), pairs.later.astype(np.int64)
    keys = np.concatenate([one * num_items + other, other * num_items + one])
    forward = 2 * pairs.distance.astype(np.int64)
    keys, codes = sort_by_key(keys, np.concatenate([forward, forward + 1]))
    edges = np.searchsorted(keys, parts.bounds)
    for part in np.flatnonzero(np.diff(edges)).tolist():
        here = slice(edges[part], edges[part + 1])
        yield part, (keys[here] - parts.bounds[part]) << parts.bits | codes[here]


def sum_weights(packed: Iterable[Ints], bits: int, weight_of: Ints) -> Sums:
    """Return the sum of every key over all packed pairs of a part.

    Memory grows with the number of distinct keys, not of pairs.
    """
    collected: list[Ints] = []
    sums = Sums(np.empty(0, np.int64), np.empty(0, np.int64))
    size = 0
    for pairs in packed:
        collected.append(pairs)
        size += len(pairs)
        if size >= max(PAIRS_PER_SUM, len(sums.keys)):
            sums = _add_pairs(sums, collected, bits, weight_of)
            collected, size = [], 0
    return _add_pairs(sums, collected, bits, weight_of)


def _add_pairs(sums: Sums, collected: list[Ints], bits: int, weight_of: Ints) -> Sums:
    if not collected:
        return sums
    packed = np.concatenate(collected)
    packed.sort()
    added = _sum_equal_keys(packed >> bits, weight_of[packed & ((1 << bits) - 1)])
    if not len(sums.keys):
        return added
    keys = np.concatenate([sums.keys, added.keys])
    keys, order = sort_by_key(keys, np.arange(len(keys)))
    return _sum_equal_keys(keys, np.concatenate([sums.weights, added.weights])[order])


def _sum_equal_keys(keys: Ints, weights: Ints) -> Sums:
    """Add the weights of equal keys; the keys must ascend."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    most_equal = int(np.diff(starts, append=len(keys)).max())
    if most_equal * int(weights.max()) >= MAX_SUM:
        sums = np.add.reduceat(weights.astype(np.float64), starts)
        if sums.max() >= MAX_SUM:
            raise SumOverflowError(int(keys[starts[sums.argmax()]]))
    return Sums(keys[starts], np.add.reduceat(weights, starts))


def sort_by_key(keys: Ints, values: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Sort keys and their values (0 or more) by key.

    If a key and a value fit into 63 bits they are sorted as one number, several times faster than
    by argsort.
    """
    bits = int(values.max(initial=0)).bit_length()
    if int(keys.max(initial=0)).bit_length() + bits > 63:
        order = np.argsort(keys)
        return keys[order], values[order].astype(np.int64)
    packed = keys << bits
    packed |= values
    packed.sort()
    return packed >> bits, packed & ((1 << bits) - 1)
