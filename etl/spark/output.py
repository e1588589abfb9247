"""Spark DataFrames <-> tables. File boundaries are ranges of keys, so they and the order in them
do not depend on how Spark happened to partition the rows.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from mdsrec import tables
from mdsrec.tables import Manifest, Recipe

Cut = tuple[Column, int]  # the number of a row's file, and how many files there are
GLOB = re.compile(r"([\[\]{}*?\\])")


def spark_uri(uri: str) -> str:
    """The same place in Spark's words: s3a for s3, file:// for a local path."""
    if uri.startswith("s3://"):
        return "s3a://" + uri.removeprefix("s3://")
    return uri if "://" in uri else f"file://{uri}"


def read(spark: SparkSession, uri: str, table: pa.Schema) -> DataFrame:
    """The rows of a committed table: only the files in its manifest."""
    manifest = tables.open_table(uri)
    paths = [GLOB.sub(r"\\\1", f"{spark_uri(uri)}/{file.path}") for file in manifest.files]
    if not paths:
        return spark.createDataFrame([], from_arrow_schema(table))
    return spark.read.schema(from_arrow_schema(table)).parquet(*paths)


def write(
    frame: DataFrame,
    uri: str,
    table: pa.Schema,
    recipe: Recipe,
    order: Sequence[str],
    cut: Cut,
    counters: Mapping[str, Any],
) -> Manifest:
    """Commit `frame` as the table at `uri`, in `order`; the cut's file number must grow with it."""
    part, num_files = cut
    version = tables.new_version(uri)
    columns = [
        F.col(field.name).cast(field.dataType).alias(field.name)
        for field in from_arrow_schema(table).fields
    ]
    written = Observation()
    (
        frame.repartitionById(num_files, part.cast("int"))
        .sortWithinPartitions(*order)
        .select(*columns)
        .observe(written, F.count(F.lit(1)).alias("rows"))
        .write.option("compression", "zstd")
        .parquet(spark_uri(version))
    )
    return tables.commit(uri, version, recipe, written.get["rows"], counters)


def by_range(key: str, num_keys: int, keys_per_file: int) -> Cut:
    """Dense ids 0..num_keys-1 in equal ranges of at most `keys_per_file`."""
    width = range_width(num_keys, keys_per_file)
    return F.floor(F.col(key) / F.lit(width)), max(1, -(-num_keys // width))


def range_width(num_keys: int, most: int) -> int:
    """The width of the fewest equal ranges of at most `most` keys."""
    num_ranges = max(1, -(-num_keys // most))
    return max(1, -(-num_keys // num_ranges))


def by_line(lines_of_file: Mapping[int, int], rows_per_file: int) -> Cut:
    """Numbered input lines in equal ranges, files in the order of the mapping."""
    start, total = F.lit(0).cast("long"), 0
    for file, lines in lines_of_file.items():
        start = F.when(F.col("file") == file, F.lit(total).cast("long")).otherwise(start)
        total += lines
    part = F.floor((start + F.col("line") - 1) / F.lit(rows_per_file))
    return part, max(1, -(-total // rows_per_file))
