"""The category of each item, where the input has several."""

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


@dataclass(frozen=True)
class Categories:
    """The category of each raw file, by its position."""

    of_interactions: tuple[str, ...]
    of_items: tuple[str, ...]


def build_categories(
    items: DataFrame, metadata: DataFrame, interactions: DataFrame, categories: Categories
) -> DataFrame:
    """Build the rows of CATEGORIES: an item has the category of the file that first describes it.

    If no metadata describes it, that is the first file with one of its interactions.
    """
    described = _first_files(metadata, "described")
    interacted = _first_files(interactions, "interacted")
    category = F.coalesce(
        _category_of(F.col("described"), categories.of_items),
        _category_of(F.col("interacted"), categories.of_interactions),
    )
    return (
        items.select("item", "item_id")
        .join(described, "item_id", "left")
        .join(interacted, "item_id", "left")
        .select("item", category.alias("category"))
    )


def count_items(rows: DataFrame, names: Sequence[str]) -> dict[str, int]:
    """Return the number of items of each category, in the order of the configuration."""
    counts = {row.category: row["count"] for row in rows.groupBy("category").count().collect()}
    return {name: counts.get(name, 0) for name in names}


def _first_files(rows: DataFrame, name: str) -> DataFrame:
    return rows.groupBy("item_id").agg(F.min("file").alias(name))


def _category_of(file: Column, names: Sequence[str]) -> Column:
    return F.get(F.array(*map(F.lit, names)), file) if names else F.lit(None).cast("string")
