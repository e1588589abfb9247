"""The items table: metadata of each item of the catalogue, and the text that an encoder reads."""

import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from etl.catalogue.sequences import dense_ids
from etl.spark.session import materialize
from mdsrec.errors import InputError
from mdsrec.schema import ITEMS

log = logging.getLogger("etl")

FIELDS = ("title", "features", "description", "categories", "brand", "details")
SHARED_BY_MANY = 10  # items; more than these with one text are reported
SHOWN_TEXT = 60  # characters
MAX_ITEMS = 2**31 - 1  # the tables number them in 31 bits


def join_sentences(parts: Sequence[str]) -> str:
    """Join parts as sentences: `Title. Description`."""
    return " ".join(part if part[-1] in ".!?" else part + "." for part in parts[:-1]) + (
        " " * (len(parts) > 1) + parts[-1] if parts else ""
    )


def only_first_records(metadata: DataFrame) -> DataFrame:
    """Keep one record per item: the first in input order."""
    fields = [column for column in metadata.columns if column not in ("item_id", "file", "line")]
    record = F.min_by(F.struct(*fields), F.struct("file", "line")).alias("record")
    return metadata.groupBy("item_id").agg(record).select("item_id", "record.*")


def build_items(
    catalogue: DataFrame, metadata: DataFrame, training: DataFrame, fields: Sequence[str]
) -> DataFrame:
    """Build the rows of ITEMS. `catalogue` is (asin, item), `training` the training events (items).

    The text of an item is joined from `fields`.
    """
    num_train = (
        training.select(F.explode("items").alias("item")).groupBy("item").count()
    ).withColumnRenamed("count", "num_train")
    return (
        catalogue.join(only_first_records(metadata), "item_id", "left")
        .join(num_train, "item", "left")
        .withColumn("num_train", F.coalesce("num_train", F.lit(0)))
        .select("item", "item_id", *FIELDS, "image_url", "num_train")
        .transform(_with_text, fields=tuple(fields))
    )


def build_catalogue(events: DataFrame, metadata: DataFrame, kind: str) -> DataFrame:
    """Build DataFrame(item_id, item) from the items of `events`.

    `kind` = "full" adds all other items of the metadata, also those that the k-core dropped.
    """
    ids = events.select("item_id")
    if kind == "full":
        ids = ids.union(metadata.select("item_id"))
    return dense_ids(ids, "item_id", "item")


def check_num_items(num_items: int) -> None:
    """Raise InputError if the items cannot be numbered."""
    if num_items > MAX_ITEMS:
        raise InputError(
            f"the catalogue has {num_items:,} items, but tables number {MAX_ITEMS:,} at most: "
            "raise sequences.k_core, or give fewer files"
        )


def counters(item_rows: DataFrame, metadata: DataFrame, events: DataFrame) -> dict[str, int]:
    """Count items with title, text and image, and metadata that is missing, unused or repeated."""
    interacted = materialize(events.select("item_id").distinct())
    described = materialize(metadata.select("item_id").distinct())
    num_interacted, num_described = interacted.count(), described.count()
    both = described.join(interacted, "item_id", "left_semi").count()
    row = item_rows.agg(
        F.count("*").alias("items"),
        F.count("title").alias("items_with_title"),
        F.count("text").alias("items_with_text"),
        F.count("image_url").alias("items_with_image"),
        F.count_if(F.col("title").isNull() & F.col("text").isNotNull()).alias("text_without_title"),
    ).first()
    assert row is not None
    return {
        **row.asDict(),
        "items_with_shared_text": count_shared_texts(item_rows),
        "items_interacted": num_interacted,
        "items_without_metadata": num_interacted - both,
        "metadata_without_interactions": num_described - both,
        "metadata_duplicates": metadata.count() - num_described,
    }


def count_shared_texts(item_rows: DataFrame) -> int:
    """Count the items whose text more than SHARED_BY_MANY items have, and log the commonest text.

    Such items are neighbors of one another for no reason but this text.
    """
    shared = materialize(
        item_rows.where(F.col("text").isNotNull())
        .groupBy("text")
        .count()
        .where(F.col("count") > SHARED_BY_MANY)
    )
    commonest = shared.orderBy(F.desc("count"), "text").first()
    if commonest is None:
        return 0
    total = int(shared.agg(F.sum("count")).collect()[0][0])
    log.warning(
        "items: %s items have a text that more than %d items share; %s of them have %r",
        f"{total:,}",
        SHARED_BY_MANY,
        f"{commonest['count']:,}",
        commonest.text[:SHOWN_TEXT],
    )
    return total


def _with_text(rows: DataFrame, fields: tuple[str, ...]) -> DataFrame:
    def add_texts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            with_texts = [add_text(row, fields) for row in batch.to_pylist()]
            yield pa.RecordBatch.from_pylist(with_texts, schema=ITEMS)

    return rows.mapInArrow(add_texts, from_arrow_schema(ITEMS))


def add_text(row: dict[str, str | None], fields: Sequence[str]) -> dict[str, str | None]:
    """Return the row with `text` joined from `fields`, on one line; None if all are null."""
    parts = [" ".join(text.split()) for field in fields if (text := row[field])]
    return row | {"text": join_sentences(parts) or None}
