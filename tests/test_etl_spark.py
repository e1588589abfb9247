"""The steps on DataFrames, on tiny literal worlds."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.interactions import drop_repeated, only_k_core
from etl.sequences import dense_ids, sequences, training_events

pytestmark = pytest.mark.spark

EVENTS = "user_id string, asin string, time long, file int, line long"


def plain_k_core(events, k):
    """Events whose user and item keep k events, by removing until nothing changes."""
    while True:
        users = Counter(user for user, _ in events)
        items = Counter(item for _, item in events)
        kept = [(u, i) for u, i in events if users[u] >= k and items[i] >= k]
        if len(kept) == len(events):
            return sorted(kept)
        events = kept


def frame(spark, rows):
    """Events from (user, item, time), in input order."""
    numbered = [(u, i, t, 0, line) for line, (u, i, t) in enumerate(rows, start=1)]
    return spark.createDataFrame(numbered, EVENTS)


def by_user(spark, rows):
    events = frame(spark, rows)
    found = sequences(events, dense_ids(events, "asin", "item")).collect()
    return {row.user_id: row for row in found}


def pairs(events):
    return sorted((row.user_id, row.asin) for row in events.collect())


def test_k_core_goes_on_until_users_and_items_both_hold(spark):
    # c keeps 2 events only while user 3 is there, who keeps 2 only while d is there
    rows = [("1", "a", 0), ("1", "b", 0), ("2", "a", 0), ("2", "b", 0), ("1", "c", 0)]
    rows += [("3", "c", 0), ("3", "d", 0)]
    found = pairs(only_k_core(frame(spark, rows), 2))
    assert found == [("1", "a"), ("1", "b"), ("2", "a"), ("2", "b")]


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from("1234"), st.sampled_from("abcd")), max_size=14))
def test_k_core_equals_plain_python(spark, events):
    rows = [(user, item, 0) for user, item in events]
    assert pairs(only_k_core(frame(spark, rows), 2)) == plain_k_core(events, 2)


@pytest.mark.parametrize(
    ("keep", "times"), [("first", [1, 2]), ("last", [2, 5]), ("keep", [1, 2, 5])]
)
def test_which_of_a_repeated_pair_stays(spark, keep, times):
    rows = [("u", "a", 5), ("u", "b", 2), ("u", "a", 1)]
    found = drop_repeated(frame(spark, rows), keep)
    assert sorted(row.time for row in found.collect()) == times


def test_of_two_equal_times_the_first_line_is_first(spark):
    rows = [("u", "a", 1), ("u", "a", 1)]
    assert [r.line for r in drop_repeated(frame(spark, rows), "first").collect()] == [1]
    assert [r.line for r in drop_repeated(frame(spark, rows), "last").collect()] == [2]


def test_ids_are_ranks_in_binary_order_and_ties_stand_in_input_order(spark):
    rows = [("u", "é", 7), ("u", "b", 7), ("u", "Z", 7), ("u", "a", 3)]
    # binary order: Z < a < b < é
    row = by_user(spark, rows)["u"]
    assert row["items"] == [1, 3, 2, 0]
    assert row.times == [3, 7, 7, 7]


def test_last_item_is_test_and_the_one_before_is_validation(spark):
    found = by_user(spark, [("u", item, n) for n, item in enumerate("abcde")])
    assert (found["u"].train_end, found["u"].valid_end) == (5 - 2, 5 - 1)


def test_a_user_with_fewer_than_three_events_only_trains(spark):
    rows = [("one", "a", 0), ("two", "a", 0), ("two", "b", 1)]
    rows += [("three", "a", 0), ("three", "b", 1), ("three", "c", 2)]
    found = by_user(spark, rows)
    ends = {user: (row.train_end, row.valid_end) for user, row in found.items()}
    assert ends == {"one": (1, 1), "two": (2, 2), "three": (1, 2)}
    assert {user: row.user for user, row in found.items()} == {"one": 0, "three": 1, "two": 2}


def test_training_events_end_before_the_held_out_ones(spark):
    rows = [("u", item, n) for n, item in enumerate("abcd")] + [("v", "a", 0)]
    events = frame(spark, rows)
    table = sequences(events, dense_ids(events, "asin", "item"))
    assert sorted(row["items"] for row in training_events(table).collect()) == [[0], [0, 1]]


def test_dense_ids_do_not_depend_on_the_partitioning(spark):
    values = spark.createDataFrame([(f"v{n * 7919 % 1000:03d}",) for n in range(500)], "v string")
    found = [
        sorted(map(tuple, dense_ids(values.repartition(n), "v", "id").collect())) for n in (1, 3, 8)
    ]
    assert found[0] == found[1] == found[2]
    assert [rank for _, rank in found[0]] == list(range(500))
