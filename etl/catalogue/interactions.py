"""Selection of interactions: repeated pairs are dropped, then the k-core of users and items."""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.spark.session import materialize
from mdsrec.errors import InputError

EVENT_ORDER = ("time", "file", "line")  # of a user's events


@dataclass(frozen=True)
class EventCounts:
    """Numbers of users, items and events in a set of interactions."""

    users: int
    items: int
    events: int


def count_events(events: DataFrame) -> EventCounts:
    """Count the users, items and events."""
    row = events.agg(
        F.countDistinct("user_id").alias("users"),
        F.countDistinct("item_id").alias("items"),
        F.count("*").alias("events"),
    ).first()
    assert row is not None
    return EventCounts(row.users, row.items, row.events)


def drop_repeated(events: DataFrame, keep: str) -> DataFrame:
    """Keep one event of each (user, item): the `first` or `last` in EVENT_ORDER.

    `keep` = "keep" drops none.
    """
    if keep == "keep":
        return events
    choice = F.min if keep == "first" else F.max
    position = choice(F.struct(*EVENT_ORDER)).alias("position")
    return (
        events.groupBy("user_id", "item_id")
        .agg(position)
        .select("user_id", "item_id", "position.*")
    )


def only_k_core(events: DataFrame, k: int) -> DataFrame:
    """Keep the largest set in which every user and every item has at least k events.

    It may be empty. Each round is materialized, so the query plan does not grow. The result is
    unique, so the order of the rounds does not matter.
    """
    if k == 1:
        return events
    before, after = -1, events.count()
    while after != before:
        before = after
        events = materialize(
            events.transform(_only_frequent, column="user_id", k=k).transform(
                _only_frequent, column="item_id", k=k
            )
        )
        after = events.count()
    return events


def check_not_empty(after: EventCounts, before: EventCounts, k: int) -> None:
    """Raise InputError if the k-core is empty."""
    if after.users == 0:
        raise InputError(
            f"no user is left after sequences.k_core = {k}: the input has {before.users} users, "
            f"{before.items} items, {before.events} interactions; lower sequences.k_core"
        )


def _only_frequent(events: DataFrame, column: str, k: int) -> DataFrame:
    frequent = events.groupBy(column).count().where(F.col("count") >= k).select(column)
    return events.join(frequent, column, "left_semi")
