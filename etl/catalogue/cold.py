"""Cold items: a share of the catalogue that no training sees, so that one can measure how items
without training events are ranked.

An item is cold by a hash of its asin alone: whatever else the catalogue holds, and for every larger
share too.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from etl.catalogue.interactions import EVENT_ORDER, EventCounts
from etl.catalogue.split import TimeCut
from etl.spark.session import materialize
from mdsrec.errors import InputError

HASHES = 2**32  # of CRC-32


def is_cold(share: float) -> Column:
    """Whether the item of column `asin` is cold; `settings.COLD_RULE` says it in words."""
    return F.crc32("asin") < share * HASHES


def drop_cold(events: DataFrame, share: float, cut: TimeCut | None = None) -> DataFrame:
    """Events of warm items, and of cold ones those that are test targets.

    Without a `cut` in time, that is a user's last event, if two events of warm items stay before
    it: fewer than 3 events train only.
    """
    warm = ~is_cold(share)
    if cut is None:
        user, position = Window.partitionBy("user_id"), F.struct(*EVENT_ORDER)
        is_last = position == F.max(position).over(user)
        tests = is_last & (F.count_if(warm).over(user) >= 2)
    else:
        tests = F.col("time") >= cut.test_from
    return materialize(
        events.withColumn("tests", tests).where(warm | F.col("tests")).drop("tests")
    )


def check_not_empty(left: EventCounts, before: EventCounts, share: float) -> None:
    if left.events == 0:
        raise InputError(
            f"sequences.cold_share = {share} holds out every one of {before.items} items: lower it"
        )


def counters(
    events: DataFrame, catalogue: DataFrame, share: float, left: EventCounts, before: EventCounts
) -> dict[str, int]:
    """What was held out; `events` are those that `left` counts, `before` counts all."""
    return {
        "cold_items": catalogue.where(is_cold(share)).count(),
        "cold_events_dropped": before.events - left.events,
        "cold_test_events": events.where(is_cold(share)).count(),
        "cold_users_dropped": before.users - left.users,
    }
