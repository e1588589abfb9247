"""Placeholders: the same content for many items, such as a picture "no image available".

It says nothing about an item, and would make all that share it each other's nearest neighbors.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def drop_shared(rows: DataFrame, max_shared: int) -> DataFrame:
    """Drop the items whose `digest` more than `max_shared` items have; `rows` has an item once."""
    num_items = rows.groupBy("digest").count()
    shared = num_items.where(F.col("count") > max_shared).select("digest")
    return rows.join(shared, "digest", "left_anti")


def shared_reason(max_shared: int) -> str:
    """Return why an item that `drop_shared` drops has no vector, as counted in the manifest."""
    return f"shared by more than {max_shared} items"
