"""Placeholders: the same content for many items, such as a picture "no image available".

It says nothing about an item, and would make all that share it each other's nearest neighbors.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.spark.session import materialize


def drop_shared(rows: DataFrame, max_shared: int) -> tuple[DataFrame, dict[str, int]]:
    """Drop the items whose `digest` more than `max_shared` items have, and count them.

    `rows` has an item once. The counter is left out if it is 0.
    """
    num_items = rows.groupBy("digest").count()
    shared = num_items.where(F.col("count") > max_shared).select("digest")
    kept = materialize(rows.join(shared, "digest", "left_anti"))
    dropped = rows.count() - kept.count()
    reason = f"missed: shared by more than {max_shared} items"
    return kept, {reason: dropped} if dropped else {}
