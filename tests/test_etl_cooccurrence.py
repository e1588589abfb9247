"""Eq. 1-2 against plain Python. No Spark: the functions that run inside a task."""

from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import cooccurrence
from etl.cooccurrence import SCALE, pair_sums

NUM_ITEMS = 7
SEQUENCES = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), max_size=8)


def plain(sequences, distance=True):
    """O by its definition, for i < j."""
    found = defaultdict(float)
    for items in sequences:
        for p in range(len(items)):
            for q in range(p + 1, len(items)):
                if items[p] != items[q]:
                    pair = min(items[p], items[q]), max(items[p], items[q])
                    found[pair] += 1 / (q - p) if distance else 1
    return dict(found)


def batch(sequences):
    flat = np.array([item for items in sequences for item in items], dtype=np.int64)
    return flat, np.array([len(items) for items in sequences], dtype=np.int64)


def ours(batches, distance=True):
    """Fixed-point sums by pair, over all that leaves the task."""
    scale = SCALE if distance else 1
    found = defaultdict(int)
    for keys, weights, _ in pair_sums(iter(batches), NUM_ITEMS, scale, distance):
        for key, weight in zip(keys.tolist(), weights.tolist(), strict=True):
            found[divmod(key, NUM_ITEMS)] += weight
    return {pair: weight / scale for pair, weight in found.items()}


def test_a_repeated_item_counts_with_every_occurrence():
    # positions 0 1 2 hold items 3 5 3: 3-5 at distance 1 twice, 3-3 is no pair
    assert ours([batch([[3, 5, 3]])]) == {(3, 5): 1 / 1 + 1 / 1}


def test_distance_divides_and_users_add_up():
    found = ours([batch([[0, 1, 2], [2, 0]])])
    assert found == {(0, 1): 1 / 1, (1, 2): 1 / 1, (0, 2): 1 / 2 + 1 / 1}


def test_without_distance_every_pair_counts_one():
    assert ours([batch([[0, 1, 2], [2, 0]])], distance=False) == {(0, 1): 1, (1, 2): 1, (0, 2): 2}


@given(SEQUENCES, st.booleans())
def test_pairs_equal_the_definition(sequences, distance):
    expected = plain(sequences, distance)
    found = ours([batch(sequences)], distance)
    assert found.keys() == expected.keys()
    assert all(abs(found[pair] - expected[pair]) <= 1e-9 * expected[pair] for pair in expected)


@given(SEQUENCES, st.integers(0, 8))
def test_sums_have_the_same_bits_however_users_are_batched(sequences, cut):
    whole = ours([batch(sequences)])
    assert whole == ours([batch(sequences[cut:]), batch(sequences[:cut])])


def test_combining_early_changes_nothing(monkeypatch):
    sequences = [[0, 1, 2, 3, 1, 0], [3, 2, 1], [6, 5, 4, 0]]
    whole = ours([batch(sequences)])
    monkeypatch.setattr(cooccurrence, "COMBINE_AT", 2)
    monkeypatch.setattr(cooccurrence, "YIELD_AT", 3)
    assert whole == ours([batch([items]) for items in sequences])


@pytest.mark.parametrize("distance", [*range(1, 31), 31, 99, 1000, 100_000])
def test_fixed_point_is_exact_to_thirty_and_far_below_1e_9_beyond(distance):
    error = abs(Fraction(round(SCALE / distance), SCALE) - Fraction(1, distance))
    assert error == 0 if distance <= 30 else error < 1e-12
