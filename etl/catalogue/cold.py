"""Cold items: a share of the catalogue that training never sees.

They measure how well a model ranks items without training events. Whether an item is cold depends
on a hash of its id only: not on the other items, and a cold item stays cold at any larger share.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from etl.catalogue.interactions import EVENT_ORDER, EventCounts
from etl.catalogue.split import TimeCut
from etl.spark.session import materialize
from mdsrec.errors import InputError

NUM_HASHES = 2**32  # of CRC-32


def is_cold(share: float) -> Column:
    """Return whether the item in column `item_id` is cold (table_settings.COLD_RULE)."""
    return F.crc32("item_id") < share * NUM_HASHES


def drop_cold(events: DataFrame, share: float, cut: TimeCut | None = None) -> DataFrame:
    """Drop the events of cold items, except those that are test targets.

    With a `cut` in time, test targets are the events from `cut.test_from` on. Without one, it is
    the user's last event, provided that two events of warm items precede it: fewer than 3 events
    are training only.
    """
    warm = ~is_cold(share)
    if cut is None:
        user, position = Window.partitionBy("user_id"), F.struct(*EVENT_ORDER)
        is_last = position == F.max(position).over(user)
        is_test = is_last & (F.count_if(warm).over(user) >= 2)
    else:
        is_test = F.col("time") >= cut.test_from
    return materialize(
        events.withColumn("is_test", is_test).where(warm | F.col("is_test")).drop("is_test")
    )


def check_not_empty(after: EventCounts, before: EventCounts, share: float) -> None:
    """Raise InputError if no event is left."""
    if after.events == 0:
        raise InputError(
            f"sequences.cold_share = {share} holds out all {before.items} items: lower it"
        )


def counters(
    events: DataFrame, catalogue: DataFrame, share: float, after: EventCounts, before: EventCounts
) -> dict[str, int]:
    """Return how much was held out. `events` are those after drop_cold, counted by `after`."""
    return {
        "cold_items": catalogue.where(is_cold(share)).count(),
        "cold_events_dropped": before.events - after.events,
        "cold_test_events": events.where(is_cold(share)).count(),
        "cold_users_dropped": before.users - after.users,
    }
