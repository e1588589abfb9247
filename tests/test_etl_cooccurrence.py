"""Co-occurrence (Eq. 1-2) against plain Python, by the functions that run inside a Spark task."""

import json
import subprocess
import sys
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.graph import pairs
from etl.graph.pairs import (
    Histories,
    SumOverflowError,
    count_ends,
    make_pairs,
    merge_blocks,
    part_bounds,
    split_by_part,
    sum_weights,
)
from etl.graph.weighting import SCALE, Cooccurrence, Transitions, code_bits

NUM_ITEMS = 7
SEQUENCES = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), max_size=8)
PAPER = Cooccurrence()
REACH = st.sampled_from([None, 1, 2, 5])


def plain(sequences, weighting=PAPER):
    """Return O by its definition, in both directions."""
    found = defaultdict(float)
    for items in sequences:
        for p in range(len(items)):
            for q in range(p + 1, len(items)):
                if items[p] != items[q] and q - p <= (weighting.max_distance or q - p):
                    weight = 1 / (q - p) if weighting.distance else 1
                    found[items[p], items[q]] += weight
                    found[items[q], items[p]] += weight
    return dict(found)


def histories(sequences):
    flat = [item for items in sequences for item in items]
    return Histories(np.array(flat, np.int32), np.array([len(i) for i in sequences], np.int64))


def parts_of(sequences, reach, num_items=NUM_ITEMS, part_size=8):
    found = histories(sequences)
    ends = np.bincount(found.items, count_ends(found, reach), minlength=num_items)
    return part_bounds(ends.astype(np.int64), 1, num_items, code_bits(reach), part_size)


def fixed_point_sums(batches, weighting=PAPER, num_items=NUM_ITEMS):
    """Return the sums of all parts by (item, other)."""
    whole = [items for batch in batches for items in batch]
    reach = weighting.reach(max(map(len, whole), default=0))
    parts = parts_of(whole, reach, num_items)
    blobs = defaultdict(list)
    itself = weighting.counts_itself
    blocks = (block for batch in batches for block in make_pairs(histories(batch), reach, itself))
    for flush in merge_blocks(blocks):
        for part, packed in split_by_part(flush, num_items, parts):
            blobs[part].append(packed)
    found = {}
    for part, packed in blobs.items():
        sums = sum_weights(packed, parts.bits, weighting.table(reach))
        keys = (sums.keys + parts.bounds[part]).tolist()
        assert all(parts.bounds[part] <= key < parts.bounds[part + 1] for key in keys)
        found |= {divmod(k, num_items): w for k, w in zip(keys, sums.weights.tolist(), strict=True)}
    return found


def scores(batches, weighting=PAPER):
    return {pair: w / weighting.scale for pair, w in fixed_point_sums(batches, weighting).items()}


def both(half):
    return half | {(other, item): score for (item, other), score in half.items()}


def test_every_occurrence_of_a_repeated_item_counts():
    # positions 0 1 2 hold items 3 5 3: 3-5 at distance 1 twice, 3-3 is not a pair
    assert scores([[[3, 5, 3]]]) == both({(3, 5): 1 / 1 + 1 / 1})


def test_weights_are_divided_by_distance_and_summed_over_users():
    found = scores([[[0, 1, 2], [2, 0]]])
    assert found == both({(0, 1): 1 / 1, (1, 2): 1 / 1, (0, 2): 1 / 2 + 1 / 1})


def test_without_distance_every_pair_counts_one():
    found = scores([[[0, 1, 2], [2, 0]]], Cooccurrence(distance=False))
    assert found == both({(0, 1): 1, (1, 2): 1, (0, 2): 2})


@given(SEQUENCES, st.booleans(), REACH)
def test_pairs_equal_the_definition(sequences, distance, max_distance):
    weighting = Cooccurrence(distance=distance, max_distance=max_distance)
    expected = plain(sequences, weighting)
    found = scores([sequences], weighting)
    assert found.keys() == expected.keys()
    assert all(abs(found[pair] - expected[pair]) <= 1e-9 * expected[pair] for pair in expected)


@given(SEQUENCES, st.integers(0, 8))
def test_sums_have_the_same_bits_however_users_are_batched(sequences, cut):
    assert fixed_point_sums([sequences]) == fixed_point_sums([sequences[cut:], sequences[:cut]])


def plain_transitions(sequences, weighting):
    """Return C + reverse C^T by its definition."""
    found = defaultdict(float)
    for items in sequences:
        for p, item in enumerate(items):
            followers = items[p + 1 :][: weighting.max_distance]
            for distance, later in enumerate(followers, start=1):
                weight = weighting.decay ** (distance - 1)
                found[item, later] += weight
                found[later, item] += weighting.reverse * weight
    return dict(found)


def test_a_transition_fades_with_distance_and_counts_half_in_reverse():
    fading = Transitions(decay=0.25, reverse=0.5, max_distance=2)
    # 0 -> 1 and 1 -> 2 and 2 -> 3 at distance 1; 0 -> 2 and 1 -> 3 at distance 2; 0 -> 3 too far
    forward = {(0, 1): 1, (1, 2): 1, (2, 3): 1, (0, 2): 0.25, (1, 3): 0.25}
    reverse = {(later, earlier): 0.5 * weight for (earlier, later), weight in forward.items()}
    assert scores([[[0, 1, 2, 3]]], fading) == forward | reverse


def test_an_item_that_follows_itself_is_a_transition():
    fading = Transitions(decay=0.25, reverse=0.5, max_distance=20)
    # 3 -> 5 and 5 -> 3 at distance 1, 3 -> 3 at distance 2
    assert scores([[[3, 5, 3]]], fading) == {
        (3, 5): 1 + 0.5,
        (5, 3): 0.5 + 1,
        (3, 3): 0.25 + 0.5 * 0.25,
    }


@given(SEQUENCES, st.sampled_from([0.7, 1.0]), st.sampled_from([0.5, 1.0]), st.sampled_from([1, 3]))
def test_transitions_equal_the_definition(sequences, decay, reverse, max_distance):
    weighting = Transitions(decay=decay, reverse=reverse, max_distance=max_distance)
    assert scores([sequences], weighting) == pytest.approx(
        plain_transitions(sequences, weighting), rel=1e-11
    )


@given(SEQUENCES, st.integers(0, 8))
def test_transitions_have_the_same_bits_however_users_are_batched(sequences, cut):
    weighting = Transitions(decay=0.7, reverse=0.3, max_distance=4)
    parted = [sequences[cut:], sequences[:cut]]
    assert fixed_point_sums([sequences], weighting) == fixed_point_sums(parted, weighting)


def test_sums_do_not_depend_on_the_sizes_of_blocks_flushes_and_partial_sums(monkeypatch):
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, NUM_ITEMS, length).tolist() for length in (60, 3, 90, 1, 17)]
    whole = fixed_point_sums([sequences])
    for name, value in {"PAIRS_PER_BLOCK": 40, "PAIRS_PER_FLUSH": 50, "PAIRS_PER_SUM": 30}.items():
        monkeypatch.setattr(pairs, name, value)
    assert whole == fixed_point_sums([[items] for items in sequences])


def test_keys_that_do_not_fit_beside_a_distance_are_sorted_too():
    most = 2**31 - 1  # keys of 62 bits, distances of 2
    spread = {0: 0, 1: 7, 2: most - 1}
    sequences = [[0, 1, 2], [2, 0], [2, 1]]
    bits = code_bits(2)
    parts = part_bounds(np.array([9]), most, most, bits)
    assert max(np.diff(parts.bounds).tolist()) << bits <= 2**63
    blobs = defaultdict(list)
    for flush in merge_blocks(
        make_pairs(histories([[spread[i] for i in s] for s in sequences]), 2)
    ):
        for part, packed in split_by_part(flush, most, parts):
            blobs[part].append(packed)
    found = {}
    for part, packed in blobs.items():
        sums = sum_weights(packed, bits, Cooccurrence().table(2))
        for key, weight in zip(sums.keys.tolist(), sums.weights.tolist(), strict=True):
            found[divmod(key + int(parts.bounds[part]), most)] = weight / SCALE
    assert found == {(spread[i], spread[j]): score for (i, j), score in plain(sequences).items()}


@pytest.mark.parametrize("distance", [*range(1, 31), 31, 99, 1000, 100_000])
def test_fixed_point_is_exact_to_thirty_and_far_below_1e_9_beyond(distance):
    weight = int(Cooccurrence().table(distance)[2 * distance])
    error = abs(Fraction(weight, SCALE) - Fraction(1, distance))
    assert error == 0 if distance <= 30 else error < 1e-12


def test_a_sum_near_two_to_the_63_is_exact_and_a_larger_one_is_an_error(monkeypatch):
    monkeypatch.setattr(
        pairs, "PAIRS_PER_SUM", 1
    )  # the second pair is added to the sum of the first
    blobs = [np.array([3 << 1 | 1]), np.array([3 << 1 | 1, 5 << 1 | 1])]
    near = np.array([0, 2**62 - 2**43 + 1])
    assert sum_weights(blobs, 1, near).weights.tolist() == [
        2 * (2**62 - 2**43 + 1),
        2**62 - 2**43 + 1,
    ]
    with pytest.raises(SumOverflowError) as error:
        sum_weights(blobs, 1, np.array([0, 2**62]))
    assert error.value.key == 3


def test_parts_have_about_the_same_size_and_a_popular_item_is_divided():
    ends = np.array([1, 1, 1, 1, 40, 1, 1, 10])
    parts = part_bounds(ends, 1, 8, bits=3, part_size=10)
    # items 0-3; item 4 in four ranges of its 8 other items; items 5-6; item 7
    assert parts.bounds.tolist() == [0, 32, 34, 36, 38, 40, 56, 64]


@given(SEQUENCES, st.integers(1, 20))
def test_parts_cover_every_key_once(sequences, part_size):
    bounds = parts_of(sequences, 8, part_size=part_size).bounds
    assert (bounds[0], bounds[-1]) == (0, NUM_ITEMS**2)
    assert (np.diff(bounds) > 0).all()


@given(SEQUENCES, REACH)
def test_ends_count_the_pairs_of_an_event_in_both_directions(sequences, max_distance):
    found = count_ends(histories(sequences), max_distance)
    lengths = [len(items) for items in sequences]
    expected = [
        sum(0 < abs(p - q) <= (max_distance or length) for q in range(length))
        for length in lengths
        for p in range(length)
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize("distance", [True, False])
def test_the_weight_of_a_history_is_the_sum_over_its_pairs(distance):
    assert Cooccurrence(distance=distance, max_distance=2).total(4) == (
        3 * 1 + 2 * (1 / 2) if distance else 3 + 2
    )
    assert Cooccurrence(distance=distance).total(4) == pytest.approx(
        3 * 1 + 2 * (1 / 2) + 1 * (1 / 3) if distance else 3 + 2 + 1
    )


LONG_HISTORY = """
import json, resource, numpy as np
from etl.graph.pairs import Histories, make_pairs, merge_blocks, part_bounds, split_by_part
from etl.graph.weighting import code_bits
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
events, num_items = 100_000, 1000
items = np.random.default_rng(0).integers(0, num_items, events, dtype=np.int32)
parts = part_bounds(np.full(num_items, 1 << 22), 1, num_items, code_bits(events))
count = 0
for flush in merge_blocks(make_pairs(Histories(items, np.array([events])), events)):
    count += sum(len(packed) for _, packed in split_by_part(flush, num_items, parts))
    if count > 20_000_000:
        break
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([count, (after - before) / 1024]))
"""


def test_a_very_long_history_needs_little_memory():
    # the first 10 of 400 million pairs of the first piece; later flushes have the same size
    ended = subprocess.run(
        [sys.executable, "-c", LONG_HISTORY], capture_output=True, text=True, check=True
    )
    count, mebibytes = json.loads(ended.stdout)
    assert count > 20_000_000  # they would take 160 MB
    assert mebibytes < 150
