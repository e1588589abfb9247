"""DataFrames of rows that the driver holds.

They travel by Arrow. For rows as Python objects Spark would start Python processes, which takes a
second.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession


def frame_of_rows(
    spark: SparkSession, rows: Sequence[Mapping[str, Any]], schema: pa.Schema
) -> DataFrame:
    """Return a DataFrame of the rows, each a mapping of column names to values."""
    return spark.createDataFrame(pa.Table.from_pylist(rows, schema=schema))


def empty_frame(spark: SparkSession, schema: pa.Schema) -> DataFrame:
    """Return a DataFrame without rows."""
    return spark.createDataFrame(schema.empty_table())
