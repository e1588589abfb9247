"""Reading tables as Spark DataFrames, and writing DataFrames as tables.

Each file of a table holds a range of keys. So the files and the order of their rows do not depend
on how Spark partitioned the rows before.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from etl.spark.file_checks import check_table, digests_by_tasks
from etl.spark.rows import empty_frame
from mdsrec import tables
from mdsrec.tables import Manifest, Needed, Recipe, needed_by_none

GLOB_CHARACTERS = re.compile(r"([\[\]{}*?\\])")


class FileLayout(NamedTuple):
    """The assignment of rows to the files of a table."""

    file_number: Column  # of a row, counted from 0
    num_files: int


def spark_uri(uri: str) -> str:
    """Return `uri` as Spark spells it: s3a:// instead of s3://, file:// before a local path.

    Spark's paths are not quoted: in file:///a%20b it would look for a percent sign.
    """
    scheme, mark, path = uri.partition("://")
    if not mark:
        return f"file://{uri}"
    return f"{'s3a' if scheme == 's3' else scheme}://{unquote(path)}"


def read_table(spark: SparkSession, uri: str, schema: pa.Schema) -> DataFrame:
    """Return the rows of a committed table, read from the files in its manifest only.

    The bytes of these files are checked first. InputError names one that is damaged.
    """
    manifest = tables.open_table(uri)
    check_table(spark, uri, manifest)
    paths = [
        GLOB_CHARACTERS.sub(r"\\\1", f"{spark_uri(uri)}/{file.path}") for file in manifest.files
    ]
    if not paths:
        return empty_frame(spark, schema)
    return spark.read.schema(from_arrow_schema(schema)).parquet(*paths)


def write_table(
    frame: DataFrame,
    uri: str,
    schema: pa.Schema,
    recipe: Recipe,
    order: Sequence[str],
    layout: FileLayout,
    counters: Mapping[str, Any],
    needed: Needed = needed_by_none,
) -> Manifest:
    """Write `frame` as Parquet files and commit them as the table at `uri`, as `commit` does.

    Rows are sorted by the columns `order`; file numbers must ascend in the same order.
    """
    version = tables.new_version(uri)
    rows = write_files(frame, version, schema, order, layout)
    digest_files = digests_by_tasks(frame.sparkSession, uri)
    return tables.commit(uri, version, recipe, rows, counters, digest_files, needed)


def write_unordered(frame: DataFrame, uri: str, schema: pa.Schema, recipe: Recipe) -> Manifest:
    """Write `frame` without a shuffle, in the partitions and the order that it has, as a table."""
    version = tables.new_version(uri)
    rows = _write_parquet(frame, version, schema)
    return tables.commit(uri, version, recipe, rows, {}, digests_by_tasks(frame.sparkSession, uri))


def write_files(
    frame: DataFrame, version: str, schema: pa.Schema, order: Sequence[str], layout: FileLayout
) -> int:
    """Write `frame` as `write_table` does, without a commit -> the number of rows."""
    placed = frame.repartitionById(layout.num_files, layout.file_number.cast("int"))
    return _write_parquet(placed.sortWithinPartitions(*order), version, schema)


def _write_parquet(frame: DataFrame, version: str, schema: pa.Schema) -> int:
    columns = [
        F.col(field.name).cast(field.dataType).alias(field.name)
        for field in from_arrow_schema(schema).fields
    ]
    written = Observation()
    (
        frame.select(*columns)
        .observe(written, F.count(F.lit(1)).alias("rows"))
        .write.option("compression", "zstd")
        .parquet(spark_uri(version))
    )
    return int(written.get["rows"])


def files_by_id(key: str, num_keys: int, keys_per_file: int) -> FileLayout:
    """Lay out ids 0..num_keys-1 in files of equal ranges, at most `keys_per_file` ids each."""
    width = range_width(num_keys, keys_per_file)
    return FileLayout(F.floor(F.col(key) / F.lit(width)), max(1, -(-num_keys // width)))


def range_width(num_keys: int, max_width: int) -> int:
    """Return the width of the fewest equal ranges of at most `max_width` keys."""
    num_ranges = max(1, -(-num_keys // max_width))
    return max(1, -(-num_keys // num_ranges))


def files_by_line(lines_of_file: Mapping[int, int], rows_per_file: int) -> FileLayout:
    """Lay out numbered input lines in files of equal ranges.

    `lines_of_file` maps the number of an input file to its number of lines, in input order.
    """
    lines_before, total = F.lit(0).cast("long"), 0
    for file, lines in lines_of_file.items():
        before_this = F.lit(total).cast("long")
        lines_before = F.when(F.col("file") == file, before_this).otherwise(lines_before)
        total += lines
    file_number = F.floor((lines_before + F.col("line") - 1) / F.lit(rows_per_file))
    return FileLayout(file_number, max(1, -(-total // rows_per_file)))
