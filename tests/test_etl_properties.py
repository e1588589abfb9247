"""Steps that decide which events there are and who sees them, against plain Python on random
worlds, for several partitionings.
"""

import math
from collections import Counter
from contextlib import contextmanager
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.catalogue.interactions import only_k_core
from etl.catalogue.sequences import dense_ids, sequences
from etl.catalogue.split import TimeCut, time_cut
from mdsrec.config import SequencesConfig

pytestmark = pytest.mark.spark

EVENTS = "user_id string, asin string, time long, file int, line long"
PARTITIONS = (1, 3, 8)
USERS, ITEMS = ("u", "U", "ü", "10", "9"), ("a", "B", "é", "z", "aa")

few = settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
event = st.tuples(  # user, item, time, file: few, so much is repeated
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    st.integers(0, 6) | st.integers(0, 2**20),
    st.integers(0, 1),
)


worlds = st.lists(event, min_size=12, max_size=40).map(
    lambda events: [(*fields, line) for line, fields in enumerate(events, start=1)]
)


@contextmanager
def partitioned(spark, count):
    """Shuffles of exactly `count` partitions."""
    keys = ("spark.sql.shuffle.partitions", "spark.sql.adaptive.enabled")
    before = {key: spark.conf.get(key) for key in keys}
    spark.conf.set(keys[0], count)
    spark.conf.set(keys[1], False)
    try:
        yield
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)


def on_partitions(spark, world, step):
    """step(events) -> sorted rows, which are the same for any partitioning."""
    found = []
    for count in PARTITIONS:
        with partitioned(spark, count):
            events = spark.createDataFrame(world, EVENTS).repartition(count)
            found.append(sorted(map(tuple, step(events).collect())))
    assert found[0] == found[1] == found[2]
    return found[0]


def plain_k_core(events, k):
    """Events whose user and item keep k events, by removing until nothing changes."""
    while True:
        users = Counter(user for user, *_ in events)
        items = Counter(item for _, item, *_ in events)
        kept = [event for event in events if users[event[0]] >= k and items[event[1]] >= k]
        if len(kept) == len(events):
            return sorted(kept)
        events = kept


def plain_ids(values):
    return {value: rank for rank, value in enumerate(sorted(set(values), key=str.encode))}


def plain_sequences(events, ends):
    """Rows of `sequences`; `ends` says (train_end, valid_end) of a user's times."""
    users, items = plain_ids(e[0] for e in events), plain_ids(e[1] for e in events)
    rows = []
    for user in users:
        own = sorted((time, file, line, items[i]) for u, i, time, file, line in events if u == user)
        times = [time for time, *_ in own]
        rows.append((users[user], user, [item for *_, item in own], times, *ends(times)))
    return sorted(rows)


def leave_one_out(times):
    length = len(times)
    return (length, length) if length < 3 else (length - 2, length - 1)


@few
@given(worlds, st.integers(2, 3))
def test_k_core(spark, world, k):
    found = on_partitions(
        spark, world, lambda events: only_k_core(events, k).select("user_id", "asin", "line")
    )
    assert found == sorted((user, item, line) for user, item, _, _, line in plain_k_core(world, k))


@few
@given(worlds)
def test_dense_ids(spark, world):
    found = on_partitions(spark, world, lambda events: dense_ids(events, "asin", "item"))
    assert dict(found) == plain_ids(item for _, item, *_ in world)


@few
@given(worlds)
def test_leave_one_out(spark, world):
    found = on_partitions(
        spark, world, lambda events: sequences(events, dense_ids(events, "asin", "item"))
    )
    assert found == plain_sequences(world, leave_one_out)


@few
@given(worlds, st.tuples(st.integers(1, 98), st.integers(1, 98)).filter(lambda p: p[0] != p[1]))
def test_global_time(spark, world, percents):
    shares = tuple(percent / 100 for percent in sorted(percents))
    times = sorted(time for _, _, time, *_ in world)
    expected = [times[math.floor(Fraction(p, 100) * len(times))] for p in sorted(percents)]
    config = SequencesConfig(split="global_time", cut=shares)

    def step(events):
        cut = time_cut(events, config, "2023")
        assert cut == TimeCut(*expected)
        return sequences(events, dense_ids(events, "asin", "item"), cut)

    found = on_partitions(spark, world, step)
    assert found == plain_sequences(
        world, lambda own: tuple(sum(time < moment for time in own) for moment in expected)
    )
