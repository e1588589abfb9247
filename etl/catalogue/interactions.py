"""Which interactions stay: repeated pairs, then the k-core of users and items."""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.spark.session import materialize
from mdsrec.errors import InputError

EVENT_ORDER = ("time", "file", "line")  # the order of a user's events


@dataclass(frozen=True)
class EventCounts:
    """Users, items and events of a set of interactions."""

    users: int
    items: int
    events: int


def count_events(events: DataFrame) -> EventCounts:
    row = events.agg(
        F.countDistinct("user_id").alias("users"),
        F.countDistinct("asin").alias("items"),
        F.count("*").alias("events"),
    ).first()
    assert row is not None
    return EventCounts(row.users, row.items, row.events)


def drop_repeated(events: DataFrame, keep: str) -> DataFrame:
    """One event of each (user, item): the `first` or `last` by (time, file, line); `keep` drops
    none.
    """
    if keep == "keep":
        return events
    choice = F.min if keep == "first" else F.max
    position = choice(F.struct(*EVENT_ORDER)).alias("position")
    return events.groupBy("user_id", "asin").agg(position).select("user_id", "asin", "position.*")


def only_k_core(events: DataFrame, k: int) -> DataFrame:
    """The largest set in which every user and every item has at least k events; may be empty.

    Each round is kept, so the plan does not grow; the fixed point is unique, so the order of the
    rounds does not matter.
    """
    if k == 1:
        return events
    before, after = -1, events.count()
    while after != before:
        before = after
        events = materialize(
            events.transform(_with_at_least, column="user_id", k=k).transform(
                _with_at_least, column="asin", k=k
            )
        )
        after = events.count()
    return events


def check_not_empty(size: EventCounts, before: EventCounts, k: int) -> None:
    if size.users == 0:
        raise InputError(
            f"no user is left after sequences.k_core = {k}: the input has {before.users} users, "
            f"{before.items} items, {before.events} interactions; lower sequences.k_core"
        )


def _with_at_least(events: DataFrame, column: str, k: int) -> DataFrame:
    enough = events.groupBy(column).count().where(F.col("count") >= k).select(column)
    return events.join(enough, column, "left_semi")
