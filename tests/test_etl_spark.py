"""The Spark steps from events to sequences, on small literal inputs."""

import pytest
from pyspark.sql.pandas.types import from_arrow_schema

from etl.catalogue.interactions import drop_repeated, only_k_core
from etl.catalogue.items import build_catalogue, build_items
from etl.catalogue.sequences import (
    build_sequences,
    dense_ids,
    only_training_events,
    split_counters,
)
from etl.catalogue.split import (
    TimeCut,
    check_targets,
    cut_counters,
    rank_of_share,
    time_cut,
    time_of_rank,
    time_range,
)
from mdsrec.config import SequencesConfig
from mdsrec.errors import InputError
from mdsrec.schema import METADATA

pytestmark = pytest.mark.spark

EVENTS = "user_id string, item_id string, time long, file int, line long"


def frame(spark, rows):
    """Return events from (user, item, time) in input order."""
    numbered = [(u, i, t, 0, line) for line, (u, i, t) in enumerate(rows, start=1)]
    return spark.createDataFrame(numbered, EVENTS)


def table(events, cut=None):
    return build_sequences(events, dense_ids(events, "item_id", "item"), cut)


def by_user(spark, rows, cut=None):
    return {row.user_id: row for row in table(frame(spark, rows), cut).collect()}


def pairs(events):
    return sorted((row.user_id, row.item_id) for row in events.collect())


def test_k_core_repeats_until_users_and_items_both_have_k_events(spark):
    # d has 1 event; without d, user 3 has 1; without user 3, c has 1
    rows = [("1", "a", 0), ("1", "b", 0), ("2", "a", 0), ("2", "b", 0), ("1", "c", 0)]
    rows += [("3", "c", 0), ("3", "d", 0)]
    found = pairs(only_k_core(frame(spark, rows), 2))
    assert found == [("1", "a"), ("1", "b"), ("2", "a"), ("2", "b")]


@pytest.mark.parametrize(
    ("keep", "times"), [("first", [1, 2]), ("last", [2, 5]), ("keep", [1, 2, 5])]
)
def test_a_repeated_pair_keeps_its_first_or_last_or_every_event(spark, keep, times):
    rows = [("u", "a", 5), ("u", "b", 2), ("u", "a", 1)]
    found = drop_repeated(frame(spark, rows), keep)
    assert sorted(row.time for row in found.collect()) == times


def test_at_equal_times_the_first_line_is_first(spark):
    rows = [("u", "a", 1), ("u", "a", 1)]
    assert [r.line for r in drop_repeated(frame(spark, rows), "first").collect()] == [1]
    assert [r.line for r in drop_repeated(frame(spark, rows), "last").collect()] == [2]


def test_ids_are_ranks_in_binary_order_and_ties_keep_input_order(spark):
    rows = [("u", "é", 7), ("u", "b", 7), ("u", "Z", 7), ("u", "a", 3)]
    # binary order: Z < a < b < é
    row = by_user(spark, rows)["u"]
    assert row["items"] == [1, 3, 2, 0]
    assert row.times == [3, 7, 7, 7]


def test_last_item_is_test_and_the_one_before_is_validation(spark):
    found = by_user(spark, [("u", item, n) for n, item in enumerate("abcde")])
    assert (found["u"].train_end, found["u"].valid_end) == (5 - 2, 5 - 1)


def test_fewer_than_three_events_are_training_only(spark):
    rows = [("one", "a", 0), ("two", "a", 0), ("two", "b", 1)]
    rows += [("three", "a", 0), ("three", "b", 1), ("three", "c", 2)]
    found = by_user(spark, rows)
    ends = {user: (row.train_end, row.valid_end) for user, row in found.items()}
    assert ends == {"one": (1, 1), "two": (2, 2), "three": (1, 2)}
    assert {user: row.user for user, row in found.items()} == {"one": 0, "three": 1, "two": 2}


def test_training_events_end_before_the_held_out_ones(spark):
    rows = [("u", item, n) for n, item in enumerate("abcd")] + [("v", "a", 0)]
    found = only_training_events(table(frame(spark, rows)))
    assert sorted(row["items"] for row in found.collect()) == [[0], [0, 1]]


def test_a_full_catalogue_numbers_items_with_and_without_events_together(spark):
    events = frame(spark, [("u", "b", 0), ("u", "d", 1)])
    metadata = spark.createDataFrame([("c",), ("b",), ("a",), ("c",)], "item_id string")
    full = {row.item_id: row["item"] for row in build_catalogue(events, metadata, "full").collect()}
    assert full == {"a": 0, "b": 1, "c": 2, "d": 3}
    interacted = {
        row.item_id: row["item"]
        for row in build_catalogue(events, metadata, "interacted").collect()
    }
    assert interacted == {"b": 0, "d": 1}


def test_a_cut_in_time_holds_out_all_events_from_then_on(spark):
    rows = [("early", "a", 1), ("early", "b", 2)]
    rows += [("all", "a", 1), ("all", "b", 4), ("all", "c", 5), ("all", "d", 6), ("all", "e", 7)]
    rows += [("late", "a", 7), ("late", "b", 9)]
    found = by_user(spark, rows, TimeCut(valid_from=4, test_from=6))
    ends = {user: (row.train_end, row.valid_end) for user, row in found.items()}
    assert ends == {"early": (2, 2), "all": (1, 3), "late": (0, 0)}


@pytest.mark.parametrize(
    ("shares", "moments"),
    [((0.5, 0.9), (3, 9)), ((0.29, 0.3), (2, 3)), ((0.01, 0.99), (1, 9)), ((0.4, 0.6), (3, 3))],
)
def test_a_share_cuts_at_the_time_of_the_event_with_that_rank(spark, shares, moments):
    events = frame(spark, [("u", "a", t) for t in (9, 1, 1, 3, 3, 3, 3, 9, 2, 9)])
    # ranks        0  1  2  3  4  5  6  7  8  9
    # by time      1  1  2  3  3  3  3  9  9  9
    config = SequencesConfig(split="global_time", cut=shares)
    assert time_cut(events, config, 1) == TimeCut(*moments)


def test_a_share_is_an_exact_decimal():
    assert 0.29 * 100 < 29
    assert rank_of_share(0.29, 100) == 29


@pytest.mark.parametrize("ticks", [1, 1000])
def test_a_date_means_midnight_utc_in_the_unit_of_the_times(spark, ticks):
    config = SequencesConfig(split="global_time", cut=("2017-01-01", "2018-01-01"))
    cut = time_cut(frame(spark, [("u", "a", 0)]), config, ticks)
    assert cut == TimeCut(1_483_228_800 * ticks, 1_514_764_800 * ticks)
    assert cut_counters(cut, ticks)["valid_from"] == "2017-01-01T00:00:00Z"


@pytest.mark.parametrize("ticks", [1, 1000])
def test_days_are_counted_back_from_the_midnight_after_the_last_event(spark, ticks):
    """So the second number is that of the whole days that test, the last one included."""
    config = SequencesConfig(split="global_time", cut=("3 days", "1 day"))
    midnight = 1_483_228_800 * ticks  # 2017-01-01
    for last in (midnight, midnight + 86_400 * ticks - 1):
        cut = time_cut(frame(spark, [("u", "a", 0), ("u", "b", last)]), config, ticks)
        assert cut == TimeCut(midnight - 2 * 86_400 * ticks, midnight)


def test_the_time_of_a_rank_is_exact_in_milliseconds(spark):
    times = [1_500_000_000_000 + 7_919**2 * n % 10**11 for n in range(500)]
    events = frame(spark, [("u", "a", time) for time in times])
    times_found = time_range(events)
    assert times_found == (500, min(times), max(times))
    for rank in (0, 251):
        assert time_of_rank(events, rank, times_found) == sorted(times)[rank]


def test_targets_that_open_a_sequence_are_counted(spark):
    rows = [
        ("a", "x", 1),
        ("a", "y", 2),
        ("a", "x", 3),
        ("b", "x", 2),
        ("b", "y", 4),
        ("c", "x", 9),
    ]
    counters = split_counters(table(frame(spark, rows), TimeCut(2, 3)))
    assert counters == {
        "train": 1,
        "valid": 2,
        "test": 3,
        "prefixes": 0,
        "longest": 3,
        "targets_without_history": 2,
    }


@pytest.mark.parametrize(
    ("cut", "empty"),
    [
        (TimeCut(86_400, 2 * 86_400), "training"),
        (TimeCut(2 * 86_400, 2 * 86_400), "validation"),
        (TimeCut(2 * 86_400, 5 * 86_400), "test"),
    ],
)
def test_a_cut_that_leaves_a_part_empty_is_an_error_with_the_range_of_times(spark, cut, empty):
    rows = [("u", item, day * 86_400) for day, item in enumerate("abcd")] + [("v", "a", 0)]
    config = SequencesConfig(split="global_time", cut=("2000-01-01", "2001-01-01"))
    with pytest.raises(InputError) as error:
        check_targets(table(frame(spark, rows), cut), cut, config, 1)
    message = str(error.value)
    assert "sequences.cut = ['2000-01-01', '2001-01-01']" in message
    assert f"no {empty} event follows another event of the same user" in message
    assert "between 1970-01-01T00:00:00Z and 1970-01-04T00:00:00Z" in message
    assert "\n" not in message


def test_events_after_the_cut_never_reach_training_events_or_item_counts(spark):
    rows = [("uv"[time % 2], item, time) for time, item in enumerate("abcdeabc")]
    cut = TimeCut(valid_from=4, test_from=6)
    swapped = [(u, {"e": "c", "a": "b"}.get(i, "a") if t >= 4 else i, t) for u, i, t in rows]
    assert swapped != rows
    ids = dense_ids(frame(spark, rows), "item_id", "item")
    metadata = spark.createDataFrame([], from_arrow_schema(METADATA))
    for events in (rows, swapped):
        training = only_training_events(build_sequences(frame(spark, events), ids, cut))
        assert sorted(row["items"] for row in training.collect()) == [[0, 2], [1, 3]]
        described = build_items(ids, metadata, training, ["title"]).collect()
        assert {row.item_id: row.num_train for row in described} == {
            **dict.fromkeys("abcd", 1),
            "e": 0,
        }
