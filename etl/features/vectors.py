"""Vectors that the user brings, checked."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.catalogue.raw import raw_files, raw_lines
from etl.features.vector_blocks import Placed, Source, surveyed
from etl.features.vector_files import BinaryVectors, NpyVectors, ParquetVectors
from etl.spark.session import materialized
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

BLANKS = " \t\r\n"


def brought(
    spark: SparkSession, config: FeatureConfig, catalogue: DataFrame, num_tasks: int
) -> Placed:
    """The usable vectors of `catalogue` (asin, item): a vector of zeros is no vector.

    InputError for vectors of differing widths, numbers that are not finite, an asin twice, and
    vectors of which none belongs to the catalogue.
    """
    uri = str(config.vectors)
    source = opened(uri)
    vectors = surveyed(spark, source, num_tasks)
    if isinstance(source, NpyVectors):
        named = with_asins(vectors, source, str(config.asins))
    else:
        named = vectors.withColumn("asin", F.col("label").cast("string"))
    rows = materialized(named.join(catalogue, "asin", "left"))
    width = checked_width(rows, uri)
    usable = F.col("item").isNotNull() & ~F.col("zero")
    places = rows.where(usable).select("item", "block", "row")
    return Placed(source, places, width, _unused(rows))


def opened(uri: str) -> Source:
    """By the name's end: .npy, the publisher's .b (or .b.gz), else Parquet."""
    if uri.endswith(".npy"):
        return NpyVectors.of(uri)
    if uri.endswith((".b", ".b.gz")):
        return BinaryVectors.of(uri)
    return ParquetVectors.of(uri)


def with_asins(vectors: DataFrame, matrix: NpyVectors, asins: str) -> DataFrame:
    """`vectors` with the column asin: row r of the matrix belongs to line r of the asins file."""
    lines = raw_lines(vectors.sparkSession, raw_files([asins], (".txt",)))
    text = F.col("raw").cast("string")
    named = materialized(
        lines.select(
            (F.col("line") - 1).alias("number"),
            F.btrim(text, F.lit(BLANKS)).alias("asin"),
            F.is_valid_utf8(text).alias("valid"),
        )
    )
    found = named.count()
    if found != matrix.rows:
        raise InputError(f"{matrix.uri}: {matrix.rows} rows, but {asins} has {found} asins")
    if row := named.where(~F.col("valid")).orderBy("number").first():
        raise InputError(f"{asins}: line {row.number + 1} is not UTF-8 text")
    number = F.col("block").cast("long") * matrix.rows_per_block + F.col("row")
    return vectors.withColumn("number", number).join(named, "number")


def checked_width(rows: DataFrame, uri: str) -> int:
    """The width of all vectors; InputError for the first thing wrong, by asin."""
    widths = rows.groupBy("width").count().collect()
    if not widths:
        raise InputError(f"{uri}: no vectors")
    width = int(max(widths, key=lambda row: (row["count"], row.width)).width)
    if row := rows.where(F.col("width") != width).orderBy("asin").first():
        raise InputError(
            f"{uri}: the vector of asin {row.asin} has width {row.width}, expected {width}"
        )
    if width < 1:
        raise InputError(f"{uri}: the vectors are empty")
    if rows.where(F.col("asin").isNull()).first():
        raise InputError(f"{uri}: a row has no asin")
    if row := rows.where(~F.col("finite")).orderBy("asin").first():
        raise InputError(f"{uri}: the vector of asin {row.asin} holds a NaN, null or infinity")
    repeated = rows.groupBy("asin").count().where(F.col("count") > 1)
    if row := repeated.orderBy("asin").first():
        raise InputError(f"{uri}: asin {row.asin} has {row['count']} vectors, expected one")
    if rows.where(F.col("item").isNotNull()).isEmpty():
        raise InputError(f"{uri}: none of its {rows.count()} asins belongs to an item of the input")
    return width


def _unused(rows: DataFrame) -> dict[str, int]:
    """Vectors that are not used, and why."""
    row = rows.agg(
        F.count_if(F.col("item").isNull()).alias("unknown_asins"),
        F.count_if(F.col("item").isNotNull() & F.col("zero")).alias("zero_vectors"),
    ).first()
    assert row is not None
    return row.asDict()
