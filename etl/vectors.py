"""Vectors that the user brings, checked: Parquet with columns asin and vector, or .npy beside a
file of asins.
"""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import dataset, fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.output import spark_uri
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError
from mdsrec.files import file_system, read_bytes

ROWS = "asin string, vector array<float>"


def brought(spark: SparkSession, config: FeatureConfig, catalogue: DataFrame) -> DataFrame:
    """DataFrame(asin, item, vector): the usable vectors, `item` null where the catalogue lacks the
    asin.

    InputError for vectors of differing widths, numbers that are not finite, an asin twice, and
    vectors of which none belongs to the catalogue.
    """
    uri = str(config.vectors)
    given = from_npy(spark, config) if uri.endswith(".npy") else from_parquet(spark, uri)
    rows = given.join(catalogue, "asin", "left").localCheckpoint()
    check(rows, uri)
    return rows


def from_parquet(spark: SparkSession, uri: str) -> DataFrame:
    """Columns asin and vector of a Parquet file or folder."""
    filesystem, path = file_system(uri)
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        raise InputError(f"{uri}: no such file or folder")
    try:
        found = dataset.dataset(path, filesystem=filesystem, format="parquet").schema
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri}: not Parquet: {str(error).splitlines()[0]}") from None
    for column, right in (("asin", _is_text), ("vector", _is_vector)):
        if column not in found.names:
            raise InputError(f"{uri}: no column {column}; there is {', '.join(found.names)}")
        if not right(found.field(column).type):
            raise InputError(f"{uri}: column {column} is {found.field(column).type}")
    columns = (F.col("asin").cast("string"), F.col("vector").cast("array<float>"))
    return spark.read.parquet(spark_uri(uri)).select(*columns)


def from_npy(spark: SparkSession, config: FeatureConfig) -> DataFrame:
    """Row r of the array belongs to line r of the asins file."""
    matrix = open_npy(str(config.vectors))
    lines = read_bytes(str(config.asins))
    if lines is None:
        raise InputError(f"{config.asins}: no such file")
    try:
        asins = [line.strip() for line in lines.decode("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{config.asins}: not UTF-8 text: {error}") from None
    if len(asins) != len(matrix):
        raise InputError(
            f"{config.vectors}: {len(matrix)} rows, but {config.asins} has {len(asins)} asins"
        )
    numbered = pa.table({"asin": pa.array(asins, pa.string()), "row": np.arange(len(asins))})
    return spark.createDataFrame(numbered).mapInArrow(
        partial(_gather_rows, str(config.vectors)), ROWS
    )


def open_npy(uri: str) -> Any:
    """A matrix of floats: mapped if local, else read."""
    filesystem, path = file_system(uri)
    try:
        if filesystem.type_name == "local":
            matrix = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            matrix = np.load(BytesIO(read_bytes(uri) or b""), allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{uri}: not a .npy array: {str(error).splitlines()[0]}") from None
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise InputError(f"{uri}: {matrix.dtype} of shape {matrix.shape}, expected rows of floats")
    return matrix


def check(rows: DataFrame, uri: str) -> None:
    """InputError for the first thing wrong, by asin."""
    widths = rows.groupBy(F.size("vector").alias("width")).count().collect()
    if not widths:
        raise InputError(f"{uri}: no vectors")
    width = max(widths, key=lambda row: (row["count"], row.width)).width
    odd = rows.where((F.size("vector") != width) | F.col("vector").isNull())
    if row := odd.orderBy("asin").select("asin", F.size("vector").alias("width")).first():
        raise InputError(
            f"{uri}: the vector of asin {row.asin} has width {row.width}, expected {width}"
        )
    if width < 1:
        raise InputError(f"{uri}: the vectors are empty")
    if row := rows.where(F.col("asin").isNull()).first():
        raise InputError(f"{uri}: a row has no asin")
    if row := rows.where(_not_finite("vector")).orderBy("asin").first():
        raise InputError(f"{uri}: the vector of asin {row.asin} holds a NaN, null or infinity")
    repeated = rows.groupBy("asin").count().where(F.col("count") > 1)
    if row := repeated.orderBy("asin").first():
        raise InputError(f"{uri}: asin {row.asin} has {row['count']} vectors, expected one")
    if rows.where(F.col("item").isNotNull()).isEmpty():
        raise InputError(f"{uri}: none of its {rows.count()} asins belongs to an item of the input")


def known(rows: DataFrame) -> DataFrame:
    """DataFrame(item, vector): vectors of the catalogue's items; a vector of zeros is no vector."""
    return rows.where(F.col("item").isNotNull() & ~_is_zero("vector")).select("item", "vector")


def counters(rows: DataFrame) -> dict[str, int]:
    """Vectors that are not used, and why."""
    row = rows.agg(
        F.count_if(F.col("item").isNull()).alias("unknown_asins"),
        F.count_if(F.col("item").isNotNull() & _is_zero("vector")).alias("zero_vectors"),
    ).first()
    assert row is not None
    return row.asDict()


def _is_zero(vector: str) -> Any:
    return F.forall(vector, lambda x: x == 0)


def _not_finite(vector: str) -> Any:
    infinity = F.lit(float("inf"))
    return F.exists(vector, lambda x: x.isNull() | F.isnan(x) | (F.abs(x) == infinity))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_vector(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in lists) and bool(pa.types.is_floating(kind.value_type))


def _gather_rows(uri: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    matrix = open_npy(uri)
    for batch in batches:
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinity
            rows = matrix[batch.column("row").to_numpy(zero_copy_only=False)].astype(np.float32)
        vectors = pa.array(list(rows), pa.list_(pa.float32()))
        yield pa.RecordBatch.from_arrays([batch.column("asin"), vectors], names=["asin", "vector"])
