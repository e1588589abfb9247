"""Placeholders: the same content for many items, such as a picture "no image available".

It says nothing about an item, and would make all that share it each other's nearest neighbors.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from etl.spark.session import materialize

NAMED_PLACEHOLDER = "a placeholder by its name"
GAP = "(?:[-_.+ ]|%20)?"
PICTURE = "(?:img|image|photo|picture|pic|thumbnail)"
# The last part of an address, as in ".../no-img-sm._V192198896_.gif".
PLACEHOLDER_NAME = (
    rf"(?i)(?:[/_.-]|%20)(?:no{GAP}{PICTURE}(?:{GAP}(?:avail|available|found|yet))?|"
    rf"{PICTURE}{GAP}(?:(?:not{GAP}|un)(?:avail|available|found)|coming{GAP}soon)|"
    rf"(?:transparent|1x1){GAP}pixel|spacer|placeholder)(?![a-z])[^/?#]*(?:[?#].*)?$"
)


def is_named_placeholder(address: Column) -> Column:
    """Return True where an image has the name of a placeholder, however few items have it."""
    return address.rlike(PLACEHOLDER_NAME)


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
