"""Rows of a Spark source such as Delta, Iceberg or JDBC.

A source has no order, so its rows are numbered in the order of their cells: the same content gives
the same numbers, however Spark reads it.
"""

import re
from collections.abc import Sequence
from functools import reduce

import pyarrow as pa
from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.catalogue.parsing import Record, parse_rows
from etl.catalogue.sequences import number_rows
from etl.tabular.columns import listed
from etl.tabular.rows import ParseCells, cells_text
from mdsrec.config import InputConfig
from mdsrec.credentials import HIDDEN
from mdsrec.errors import InputError
from mdsrec.files import first_line

TABLE_OPTION = {"jdbc": "dbtable"}  # of sources that load no name
PARTS = re.compile(r"[\s?&;=,]")  # what separates the parts of an option


def load_source(spark: SparkSession, config: InputConfig, name: str) -> DataFrame:
    """Return what `input.source` loads by a name. InputError does not repeat the options."""
    reader = spark.read.format(str(config.source)).options(**config.options)
    try:
        if option := TABLE_OPTION.get(str(config.source)):
            return reader.option(option, name).load()
        return reader.load(name)
    except (PySparkException, Py4JError) as error:
        raise InputError(
            f"input.source = {config.source!r} cannot load {name!r} "
            f"({_without_options(first_line(error), config)}): check the name, input.options and "
            "the packages of the source (spark.jars.packages in spark.settings)"
        ) from None


def source_rows(
    spark: SparkSession,
    config: InputConfig,
    names: Sequence[str],
    wanted: Sequence[str],
    parse: ParseCells,
    schema: pa.Schema,
) -> DataFrame:
    """Return a row of `schema` plus OUTCOME for every row that the source loads."""
    labels = [f"cell {n}" for n in range(len(wanted))]

    def record_of(row: Record) -> Record:
        return parse({name: row[label] for name, label in zip(wanted, labels, strict=True)})

    def text_of(row: Record) -> str:
        return cells_text({name: row[label] for name, label in zip(wanted, labels, strict=True)})

    parts = []
    for file, name in enumerate(names):
        cells = _load_columns(spark, config, name, wanted).toDF(*labels)
        numbered = number_rows(_in_order_of_cells(cells), "line")
        position = {"file": F.lit(file), "line": F.col("line") + 1}
        parts.append(parse_rows(numbered.withColumns(position), schema, record_of, text_of))
    return reduce(DataFrame.unionAll, parts)


def copy_columns(
    spark: SparkSession, config: InputConfig, name: str, columns: Sequence[str], folder: str
) -> None:
    """Copy columns of what a source loads by a name to Parquet, in the order of their cells."""
    _in_order_of_cells(_load_columns(spark, config, name, columns)).write.parquet(folder)


def _load_columns(
    spark: SparkSession, config: InputConfig, name: str, columns: Sequence[str]
) -> DataFrame:
    frame = load_source(spark, config, name)
    if missing := [column for column in columns if column not in frame.columns]:
        raise InputError(f"{name}: no column {missing[0]!r}; there are {listed(frame.columns)}")
    return frame.select(*map(quoted, columns))


def _in_order_of_cells(rows: DataFrame) -> DataFrame:
    return rows.orderBy(F.to_json(F.struct(*map(quoted, rows.columns))))


def quoted(column: str) -> str:
    """Return the name of a column as Spark reads it, dots and all."""
    return "`" + column.replace("`", "``") + "`"


def _without_options(text: str, config: InputConfig) -> str:
    """Hide the values of the options, and their parts, in a message."""
    parts = {part for value in config.options.values() for part in [value, *PARTS.split(value)]}
    for part in sorted(filter(None, parts), key=len, reverse=True):
        text = text.replace(part, HIDDEN)
    return text
