"""Vectors from the user's files, checked and assigned to items."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.catalogue.raw import raw_files, raw_lines
from etl.features.placeholders import drop_shared
from etl.features.vector_blocks import VectorLocations, VectorSource, inspect_vectors
from etl.features.vector_files import BinaryVectors, NpyVectors, ParquetVectors
from etl.spark.session import materialize
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

BLANKS = " \t\r\n"


def locate_vectors(
    spark: SparkSession, config: FeatureConfig, catalogue: DataFrame, num_tasks: int
) -> VectorLocations:
    """Return the vectors of the items in `catalogue` (asin, item).

    A vector of zeros is left out, and one that more than `config.max_shared` items share.

    Raises InputError if vectors differ in width or hold a number that is not finite, if an asin has
    two, or if no vector belongs to the catalogue.
    """
    uri = str(config.vectors)
    source = open_vectors(uri)
    vectors = inspect_vectors(spark, source, num_tasks)
    if isinstance(source, NpyVectors):
        with_asin = add_asins(vectors, source, str(config.asins))
    else:
        with_asin = vectors.withColumn("asin", F.col("label").cast("string"))
    rows = materialize(with_asin.join(catalogue, "asin", "left"))
    width = check_vectors(rows, uri)
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


def add_asins(vectors: DataFrame, matrix: NpyVectors, asins: str) -> DataFrame:
    """Add the column asin to `vectors`: line r of the file `asins` belongs to row r of `matrix`."""
    lines = raw_lines(vectors.sparkSession, raw_files([asins], (".txt",)))
    text = F.col("raw").cast("string")
    numbered = materialize(
        lines.select(
            (F.col("line") - 1).alias("number"),
            F.btrim(text, F.lit(BLANKS)).alias("asin"),
            F.is_valid_utf8(text).alias("valid"),
        )
    )
    num_asins = numbered.count()
    if num_asins != matrix.rows:
        raise InputError(f"{matrix.uri}: {matrix.rows} rows, but {asins} has {num_asins} asins")
    if row := numbered.where(~F.col("valid")).orderBy("number").first():
        raise InputError(f"{asins}: line {row.number + 1} is not UTF-8 text")
    number = F.col("block").cast("long") * matrix.rows_per_block + F.col("row")
    return vectors.withColumn("number", number).join(numbered, "number")


def check_vectors(rows: DataFrame, uri: str) -> int:
    """Return the width of all vectors; raise InputError for the first failure, by asin."""
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


def _count_unused(rows: DataFrame) -> dict[str, int]:
    """Count the vectors that are not used, by reason."""
    row = rows.agg(
        F.count_if(F.col("item").isNull()).alias("unknown_asins"),
        F.count_if(F.col("item").isNotNull() & F.col("zero")).alias("zero_vectors"),
    ).first()
    assert row is not None
    return row.asDict()
