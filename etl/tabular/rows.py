"""The rows of tables: each is parsed, or rejected with its number and a reason.

Rows of CSV and of JSON lines have the number of their line (quoted line breaks do not count), those
of Parquet their position in the file, from 1. A CSV file is read by one task, because a quoted line
break leaves no place to start in the middle; its rows are then spread over all cores. Parquet is
read by row groups.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.catalogue.literals import load_json
from etl.catalogue.parsing import (
    Record,
    UnusableLineError,
    load_object,
    parse_rows,
    record_or_reason,
    text_of_line,
    with_outcome,
)
from etl.catalogue.raw import RawFile, raw_lines
from etl.spark.rows import frame_of_rows
from etl.spark.session import num_partitions
from etl.tabular.delimited import CsvFile, CsvRow, read_csv
from etl.tabular.listing import CSV, JSON_LINES, PARQUET
from etl.tabular.table_file import TableFile
from mdsrec.errors import InputError
from mdsrec.files import file_system, first_line

Cells = Mapping[str, Any]  # by column
ParseCells = Callable[[Cells], Record]

ROWS_PER_BATCH = 4096
GROUPS = pa.schema({"file": pa.int32(), "row_group": pa.int32(), "first": pa.int64()})
NUMBERS = pa.schema({"number": pa.int32()})
CSV_ROWS = pa.schema(
    {
        "file": pa.int32(),
        "line": pa.int64(),
        "cells": pa.list_(pa.binary()),
        "reason": pa.string(),
        "raw": pa.string(),
    }
)
SHOWN_CELL = 200  # characters of a cell in the table of rejects


def table_rows(
    spark: SparkSession,
    files: Sequence[TableFile],
    wanted: Sequence[str],
    parse: ParseCells,
    schema: pa.Schema,
) -> DataFrame:
    """Return a row of `schema` plus OUTCOME for every row of the files.

    `parse` gets the cells of the `wanted` columns. Its errors are the reasons of rejected rows.
    """
    parts = []
    for kind, rows_of in {CSV: _csv_rows, JSON_LINES: _json_rows, PARQUET: _parquet_rows}.items():
        numbered = {number: file for number, file in enumerate(files) if file.kind == kind}
        if numbered:
            parts.append(rows_of(spark, numbered, tuple(wanted), parse, schema))
    return reduce(DataFrame.unionAll, parts)


def cells_text(cells: Cells) -> str:
    """Return cells as JSON, for the table of rejects; long ones are cut."""
    return json.dumps({name: _shown(cell) for name, cell in cells.items()}, ensure_ascii=False)


def _shown(cell: Any) -> str | None:
    if cell is None:
        return None
    text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)
    return text.encode("utf-8", "replace").decode()[:SHOWN_CELL]


def _csv_rows(
    spark: SparkSession,
    files: Mapping[int, TableFile],
    wanted: tuple[str, ...],
    parse: ParseCells,
    schema: pa.Schema,
) -> DataFrame:
    opened = {number: file.csv for number, file in files.items()}
    floats = {number: file.csv.floats for number, file in files.items() if file.csv is not None}

    def cells_of(row: Record) -> dict[str, Any]:
        cells = dict(zip(wanted, row["cells"] or (), strict=False))
        return cells | {
            name: cells[name].removesuffix(b".0") for name in floats[row["file"]] & cells.keys()
        }

    def record_of(row: Record) -> Record:
        if row["reason"] is not None:
            raise UnusableLineError(row["reason"])
        return parse(cells_of(row))

    def text_of(row: Record) -> str:
        return cells_text(cells_of(row)) if row["raw"] is None else str(row["raw"])

    rows = (
        _one_task_each(spark, list(files))
        .mapInArrow(partial(_read_csv_files, opened, wanted), _spark_schema(CSV_ROWS))
        .repartition(max(num_partitions(spark), len(files)), F.col("line"))
    )
    return parse_rows(rows, schema, record_of, text_of)


def _read_csv_files(
    files: Mapping[int, CsvFile | None], wanted: Sequence[str], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for number in _numbers(batches):
        file = files[number]
        assert file is not None
        rows: list[CsvRow] = []
        for row in read_csv(file, wanted):
            rows.append(row)
            if len(rows) == ROWS_PER_BATCH:
                yield _csv_batch(number, rows)
                rows = []
        yield _csv_batch(number, rows)


def _csv_batch(file: int, rows: Sequence[CsvRow]) -> pa.RecordBatch:
    columns: list[Any] = [[file] * len(rows), *(list(part) for part in zip(*rows, strict=True))]
    arrays = [
        pa.array(column, field.type)
        for column, field in zip(columns or [[]] * len(CSV_ROWS), CSV_ROWS, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=CSV_ROWS)


def _json_rows(
    spark: SparkSession,
    files: Mapping[int, TableFile],
    wanted: tuple[str, ...],
    parse: ParseCells,
    schema: pa.Schema,
) -> DataFrame:
    numbers = list(files)

    def record_of(row: Record) -> Record:
        record = load_object(row["raw"], load_json)
        return parse({name: record.get(name) for name in wanted})

    lines = raw_lines(spark, [RawFile(file.uri, file.size, None) for file in files.values()])
    places = F.lit(numbers)  # of these files among all
    numbered = lines.withColumn("file", places[F.col("file")].cast("int"))
    return parse_rows(numbered, schema, record_of, text_of_line)


def _parquet_rows(
    spark: SparkSession,
    files: Mapping[int, TableFile],
    wanted: tuple[str, ...],
    parse: ParseCells,
    schema: pa.Schema,
) -> DataFrame:
    groups = [
        {"file": number, "row_group": group, "first": first}
        for number, file in files.items()
        for group, first in enumerate(accumulate((0, *file.group_rows[:-1])))
        if file.group_rows
    ]
    uris = {number: file.uri for number, file in files.items()}
    result = with_outcome(schema)

    def record_of(row: Record) -> Record:
        return parse(dict(zip(wanted, row["cells"], strict=True)))

    def text_of(row: Record) -> str:
        return cells_text(dict(zip(wanted, row["cells"], strict=True)))

    def parse_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for group in batch.to_pylist():
                for rows in _read_group(uris[group["file"]], group, wanted):
                    found = [record_or_reason(row, record_of, text_of) for row in rows]
                    yield pa.RecordBatch.from_pylist(found, schema=result)

    tasks = max(1, min(num_partitions(spark), len(groups)))
    frame = frame_of_rows(spark, groups, GROUPS)
    spread = frame.repartitionByRange(tasks, "file", "row_group")
    return spread.mapInArrow(parse_groups, _spark_schema(result))


def _read_group(
    uri: str, group: Mapping[str, int], wanted: Sequence[str]
) -> Iterator[list[Record]]:
    """Yield the rows of a row group with their position and the cells of the wanted columns."""
    filesystem, path = file_system(uri)
    line = group["first"] + 1
    try:
        with filesystem.open_input_file(path) as source:
            batches = pq.ParquetFile(source).iter_batches(
                ROWS_PER_BATCH, [group["row_group"]], list(wanted)
            )
            for batch in batches:
                columns = [python_values(batch.column(name)) for name in wanted]
                yield [
                    {"file": group["file"], "line": number, "cells": cells}
                    for number, cells in enumerate(zip(*columns, strict=True), start=line)
                ]
                line += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri}: damaged near row {line} ({first_line(error)})") from None


def python_values(column: pa.Array) -> list[Any]:
    """Return the values of a column; moments are in UTC, rounded down to microseconds."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        column = column.view(pa.timestamp("us"))  # the same moment in UTC
    return list(column.to_pylist())


def _one_task_each(spark: SparkSession, numbers: list[int]) -> DataFrame:
    """Return DataFrame(number) with each number in a task of its own."""
    frame = frame_of_rows(spark, [{"number": number} for number in numbers], NUMBERS)
    return frame.repartitionByRange(len(numbers), "number")


def _numbers(batches: Iterator[pa.RecordBatch]) -> Iterator[int]:
    for batch in batches:
        yield from batch.column("number").to_pylist()


def _spark_schema(schema: pa.Schema) -> Any:
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(schema)
