"""Steps that select and split events, compared with plain Python on random events.

Each step runs on several partitionings, which must give the same rows.
"""

import math
import zlib
from collections import Counter
from contextlib import contextmanager
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from etl.catalogue.cold import drop_cold
from etl.catalogue.interactions import only_k_core
from etl.catalogue.sequences import build_sequences, dense_ids
from etl.catalogue.split import TimeCut, time_cut
from mdsrec.config import SequencesConfig

pytestmark = pytest.mark.spark

EVENTS = "user_id string, item_id string, time long, file int, line long"
PARTITIONS = (1, 3, 8)
USERS, ITEMS = ("u", "U", "ü", "10", "9"), ("a", "B", "é", "z", "aa")

few = settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
event = st.tuples(  # user, item, time, file: few values, so many repeats and ties
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    st.integers(0, 6) | st.integers(0, 2**20),
    st.integers(0, 1),
)

event_lists = st.lists(event, min_size=12, max_size=40).map(
    lambda events: [(*fields, line) for line, fields in enumerate(events, start=1)]
)


@contextmanager
def shuffle_partitions(spark, count):
    """Shuffle into exactly `count` partitions."""
    keys = ("spark.sql.shuffle.partitions", "spark.sql.adaptive.enabled")
    before = {key: spark.conf.get(key) for key in keys}
    spark.conf.set(keys[0], count)
    spark.conf.set(keys[1], False)
    try:
        yield
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)


def run_on_partitionings(spark, rows, step):
    """Return the sorted rows of step(events), after checking that all partitionings agree."""
    found = []
    for count in PARTITIONS:
        with shuffle_partitions(spark, count):
            events = spark.createDataFrame(rows, EVENTS).repartition(count)
            found.append(sorted(map(tuple, step(events).collect())))
    assert found[0] == found[1] == found[2]
    return found[0]


def plain_k_core(events, k):
    """Return the events of the k-core: drop rare users and items until nothing changes."""
    while True:
        users = Counter(user for user, *_ in events)
        items = Counter(item for _, item, *_ in events)
        kept = [event for event in events if users[event[0]] >= k and items[event[1]] >= k]
        if len(kept) == len(events):
            return sorted(kept)
        events = kept


def plain_ids(values):
    return {value: rank for rank, value in enumerate(sorted(set(values), key=str.encode))}


def plain_sequences(events, ends, items=None):
    """Return the rows of the table `sequences`.

    `ends` returns (train_end, valid_end) for a user's times; `items` has the ids of a catalogue.
    """
    users, items = plain_ids(e[0] for e in events), items or plain_ids(e[1] for e in events)
    rows = []
    for user in users:
        own = sorted((time, file, line, items[i]) for u, i, time, file, line in events if u == user)
        times = [time for time, *_ in own]
        rows.append((users[user], user, [item for *_, item in own], times, *ends(times)))
    return sorted(rows)


def is_cold(item, share):
    return zlib.crc32(item.encode()) < share * 2**32


def plain_without_cold(events, share, test_from):
    """Drop cold events that are not test targets; `test_from` None means leave-one-out."""
    left = []
    for user in {user for user, *_ in events}:
        own = sorted((e for e in events if e[0] == user), key=lambda event: event[2:])
        warm = [event for event in own if not is_cold(event[1], share)]
        if test_from is not None:
            left += [e for e in own if e in warm or e[2] >= test_from]
        elif own[-1] not in warm and len(warm) >= 2:
            left += [*warm, own[-1]]
        else:
            left += warm
    return left


def leave_one_out(times):
    length = len(times)
    return (length, length) if length < 3 else (length - 2, length - 1)


@few
@given(event_lists, st.integers(2, 3))
@pytest.mark.slow
def test_k_core_equals_plain_python(spark, rows, k):
    found = run_on_partitionings(
        spark, rows, lambda events: only_k_core(events, k).select("user_id", "item_id", "line")
    )
    assert found == sorted((user, item, line) for user, item, _, _, line in plain_k_core(rows, k))


@few
@given(event_lists)
def test_dense_ids_are_ranks_in_binary_order(spark, rows):
    found = run_on_partitionings(spark, rows, lambda events: dense_ids(events, "item_id", "item"))
    assert dict(found) == plain_ids(item for _, item, *_ in rows)


@pytest.mark.slow
@few
@given(event_lists)
def test_leave_one_out_equals_plain_python(spark, rows):
    found = run_on_partitionings(
        spark, rows, lambda events: build_sequences(events, dense_ids(events, "item_id", "item"))
    )
    assert found == plain_sequences(rows, leave_one_out)


@pytest.mark.slow
@few
@given(
    event_lists, st.tuples(st.integers(1, 98), st.integers(1, 98)).filter(lambda p: p[0] != p[1])
)
def test_a_split_in_time_equals_plain_python(spark, rows, percents):
    shares = tuple(percent / 100 for percent in sorted(percents))
    times = sorted(time for _, _, time, *_ in rows)
    expected = [times[math.floor(Fraction(p, 100) * len(times))] for p in sorted(percents)]
    config = SequencesConfig(split="global_time", cut=shares)

    def step(events):
        cut = time_cut(events, config, 1000)
        assert cut == TimeCut(*expected)
        return build_sequences(events, dense_ids(events, "item_id", "item"), cut)

    found = run_on_partitionings(spark, rows, step)
    assert found == plain_sequences(
        rows, lambda own: tuple(sum(time < moment for time in own) for moment in expected)
    )


@few
@given(event_lists, st.sampled_from([0.0, 0.3, 0.6]), st.none() | st.integers(1, 6))
@pytest.mark.slow
def test_cold_items_are_neither_training_nor_validation_events(spark, rows, share, test_from):
    cut = None if test_from is None else TimeCut(test_from - 1, test_from)
    items = plain_ids(item for _, item, *_ in rows)
    cold = {number for item, number in items.items() if is_cold(item, share)}
    left = plain_without_cold(rows, share, test_from)
    assume(left)

    def step(events):
        catalogue = dense_ids(events, "item_id", "item")
        return build_sequences(drop_cold(events, share, cut), catalogue, cut)

    def ends(times):
        if cut is None:
            return leave_one_out(times)
        return tuple(sum(time < moment for time in times) for moment in (test_from - 1, test_from))

    found = run_on_partitionings(spark, rows, step)
    assert found == plain_sequences(left, ends, items)
    for _, _, events, _, _, valid_end in found:
        assert cold.isdisjoint(events[:valid_end])
