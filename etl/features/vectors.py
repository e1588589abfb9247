"""Vectors from the user's files, checked and assigned to items."""

from dataclasses import replace

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from etl.catalogue.raw import raw_files, raw_lines
from etl.features.column_vectors import ColumnVectors
from etl.features.placeholders import drop_shared
from etl.features.vector_blocks import VectorLocations, VectorSource, inspect_vectors
from etl.features.vector_files import BinaryVectors, NpyVectors, ParquetVectors
from etl.spark.session import materialize
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

BLANKS = " \t\r\n"
MAX_BYTES = 2**31 - 1  # of a value that goes through Spark
MAX_WIDTH = MAX_BYTES // 4


def locate_vectors(
    spark: SparkSession, config: FeatureConfig, catalogue: DataFrame, num_tasks: int
) -> VectorLocations:
    """Return the vectors of the items in `catalogue` (item_id, item).

    A vector of zeros is left out, and one that more than `config.max_shared` items share.

    Raises InputError if vectors differ in width or hold a number that is not finite, if an item
    has two, or if no vector belongs to the catalogue.
    """
    uri = str(config.vectors)
    source = open_vectors(uri)
    vectors = inspect_vectors(spark, source, num_tasks)
    if isinstance(source, NpyVectors):
        with_id = add_ids(vectors, source, str(config.ids))
    else:
        with_id = vectors.withColumn("item_id", F.col("label").cast("string"))
    return _checked(source, with_id, uri, config, catalogue)


def locate_column(
    spark: SparkSession,
    config: FeatureConfig,
    source: ColumnVectors,
    catalogue: DataFrame,
    num_tasks: int,
) -> VectorLocations:
    """Return the vectors in a column of the items, as `locate_vectors` does.

    An item that the table repeats has the vector of its first row. A null or empty cell is a
    counted miss.
    """
    vectors = inspect_vectors(spark, source, num_tasks).where(F.col("label").isNotNull())
    first = F.row_number().over(Window.partitionBy("label").orderBy("block", "row"))
    with_id = vectors.withColumns({"item_id": F.col("label").cast("string"), "position": first})
    with_id = with_id.where(F.col("position") == 1).drop("position")
    filled = materialize(with_id.where(F.col("width") > 0))
    located = _checked(source, filled, f"column {source.column!r}", config, catalogue)
    empty = with_id.count() - filled.count()
    return replace(located, counters={**located.counters, "items_without_vector": empty})


def _checked(
    source: VectorSource, with_id: DataFrame, name: str, config: FeatureConfig, catalogue: DataFrame
) -> VectorLocations:
    """Return the usable vectors of the items; `name` is that of the source, for messages."""
    rows = materialize(with_id.join(catalogue, "item_id", "left"))
    width = check_vectors(rows, name)
    usable = rows.where(F.col("item").isNotNull() & ~F.col("zero"))
    kept, shared = drop_shared(usable, config.max_shared)
    locations = kept.select("item", "block", "row")
    return VectorLocations(source, locations, width, _count_unused(rows) | shared)


def open_vectors(uri: str) -> VectorSource:
    """Open a file by its suffix: .npy, the publisher's .b and .b.gz, otherwise Parquet."""
    if uri.endswith(".npy"):
        return NpyVectors.open(uri)
    if uri.endswith((".b", ".b.gz")):
        return BinaryVectors.open(uri)
    return ParquetVectors.open(uri)


def add_ids(vectors: DataFrame, matrix: NpyVectors, ids: str) -> DataFrame:
    """Add item_id to `vectors`: line r of the file `ids` belongs to row r of `matrix`."""
    lines = raw_lines(vectors.sparkSession, raw_files([ids], (".txt",)))
    text = F.col("raw").cast("string")
    numbered = materialize(
        lines.select(
            (F.col("line") - 1).alias("number"),
            F.btrim(text, F.lit(BLANKS)).alias("item_id"),
            F.is_valid_utf8(text).alias("valid"),
        )
    )
    num_ids = numbered.count()
    if num_ids != matrix.rows:
        raise InputError(f"{matrix.uri}: {matrix.rows} rows, but {ids} has {num_ids} ids")
    if row := numbered.where(~F.col("valid")).orderBy("number").first():
        raise InputError(f"{ids}: line {row.number + 1} is not UTF-8 text")
    number = F.col("block").cast("long") * matrix.rows_per_block + F.col("row")
    return vectors.withColumn("number", number).join(numbered, "number")


def check_vectors(rows: DataFrame, uri: str) -> int:
    """Return the width of all vectors; raise InputError for the first failure, by item id."""
    widths = rows.groupBy("width").count().collect()
    if not widths:
        raise InputError(f"{uri}: no vectors")
    width = int(max(widths, key=lambda row: (row["count"], row.width)).width)
    if row := rows.where(F.col("width") != width).orderBy("item_id").first():
        raise InputError(
            f"{uri}: the vector of item {row.item_id} has width {row.width}, expected {width}"
        )
    if width < 1:
        raise InputError(f"{uri}: the vectors are empty")
    if width > MAX_WIDTH:
        raise InputError(
            f"{uri}: the vectors have {width:,} numbers, but Spark moves {MAX_WIDTH:,} at most in "
            "one value: reduce their width"
        )
    if rows.where(F.col("item_id").isNull()).first():
        raise InputError(f"{uri}: a row has no item id")
    if row := rows.where(~F.col("finite")).orderBy("item_id").first():
        raise InputError(f"{uri}: the vector of item {row.item_id} holds a NaN, null or infinity")
    repeated = rows.groupBy("item_id").count().where(F.col("count") > 1)
    if row := repeated.orderBy("item_id").first():
        raise InputError(f"{uri}: item {row.item_id} has {row['count']} vectors, expected one")
    if rows.where(F.col("item").isNotNull()).isEmpty():
        raise InputError(f"{uri}: none of its {rows.count()} ids belongs to an item of the input")
    return width


def _count_unused(rows: DataFrame) -> dict[str, int]:
    """Count the vectors that are not used, by reason."""
    row = rows.agg(
        F.count_if(F.col("item").isNull()).alias("unknown_ids"),
        F.count_if(F.col("item").isNotNull() & F.col("zero")).alias("zero_vectors"),
    ).first()
    assert row is not None
    return row.asDict()
