"""The items table: what is known of each item of the catalogue, and the text that an encoder
sees.
"""

import html
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from etl.catalogue.sequences import dense_ids
from etl.spark.session import materialize
from mdsrec.schema import ITEMS

SCRIPT = re.compile(r"<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>]*>", re.DOTALL)  # not the < of "3 < 5"
FIELDS = ("title", "features", "description", "categories", "brand")


def clean(text: str) -> str:
    """Entities read, scripts and tags dropped, white space single; Amazon escapes some markup
    twice.
    """
    for _ in range(2):
        text = TAG.sub(" ", SCRIPT.sub(" ", html.unescape(text)))
    return " ".join(text.split())


def joined(parts: Sequence[str]) -> str:
    """Cleaned parts as sentences: `Title. Description`."""
    return " ".join(part if part[-1] in ".!?" else part + "." for part in parts[:-1]) + (
        " " * (len(parts) > 1) + parts[-1] if parts else ""
    )


def first_records(metadata: DataFrame) -> DataFrame:
    """One record per asin: the first in input order."""
    fields = [column for column in metadata.columns if column not in ("asin", "file", "line")]
    record = F.min_by(F.struct(*fields), F.struct("file", "line")).alias("record")
    return metadata.groupBy("asin").agg(record).select("asin", "record.*")


def items(
    catalogue: DataFrame, metadata: DataFrame, training: DataFrame, fields: Sequence[str]
) -> DataFrame:
    """Rows of ITEMS: `catalogue` is (asin, item), `training` the training part of the sequences."""
    num_train = (
        training.select(F.explode("items").alias("item")).groupBy("item").count()
    ).withColumnRenamed("count", "num_train")
    return (
        catalogue.join(first_records(metadata), "asin", "left")
        .join(num_train, "item", "left")
        .withColumn("num_train", F.coalesce("num_train", F.lit(0)))
        .select("item", "asin", *FIELDS, "image_url", "num_train")
        .transform(_with_text, fields=tuple(fields))
    )


def catalogue(events: DataFrame, metadata: DataFrame, kind: str) -> DataFrame:
    """DataFrame(asin, item): the items of `events`; `full` adds all others of the metadata, also
    those that the k-core dropped.
    """
    asins = events.select("asin")
    if kind == "full":
        asins = asins.union(metadata.select("asin"))
    return dense_ids(asins, "asin", "item")


def counters(item_rows: DataFrame, metadata: DataFrame, events: DataFrame) -> dict[str, int]:
    """How much of the catalogue is described, and what of the metadata no event speaks of."""
    interacted = materialize(events.select("asin").distinct())
    described = materialize(metadata.select("asin").distinct())
    num_interacted, num_described = interacted.count(), described.count()
    both = described.join(interacted, "asin", "left_semi").count()
    row = item_rows.agg(
        F.count("*").alias("items"),
        F.count("title").alias("items_with_title"),
        F.count("text").alias("items_with_text"),
        F.count("image_url").alias("items_with_image"),
    ).first()
    assert row is not None
    return {
        **row.asDict(),
        "items_interacted": num_interacted,
        "items_without_metadata": num_interacted - both,
        "metadata_without_interactions": num_described - both,
        "metadata_duplicates": metadata.count() - num_described,
    }


def _with_text(rows: DataFrame, fields: tuple[str, ...]) -> DataFrame:
    def texts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            described = [item_text(row, fields) for row in batch.to_pylist()]
            yield pa.RecordBatch.from_pylist(described, schema=ITEMS)

    return rows.mapInArrow(texts, from_arrow_schema(ITEMS))


def item_text(row: dict[str, str | None], fields: Sequence[str]) -> dict[str, str | None]:
    """The row with a clean title, and `text` joined from `fields`; null where nothing is left."""
    cleaned = {field: clean(row[field] or "") for field in {*fields, "title"}}
    parts = [cleaned[field] for field in fields if cleaned[field]]
    return row | {"title": cleaned["title"] or None, "text": joined(parts) or None}
