"""Rows of the raw input: each gives a record, or a reason why it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:  # the parsers are tested without Spark too
    from pyspark.sql import DataFrame

Record = dict[str, Any]
RecordOf = Callable[[Record], Record]
TextOf = Callable[[Record], str]

PARSER_VERSION = 1
"""Raise it when a line gives another row: files that an earlier version parsed are parsed again."""

BLANK = "blank"
OUTCOME = {
    "reason": pa.string(),  # null for a usable row
    "raw": pa.string(),  # null for a usable row
    "notes": pa.list_(pa.string()),  # counters that a usable row adds to
}
TYPE_NAMES = {str: "string", bool: "boolean", int: "number", float: "number", list: "list"}


class UnusableLineError(Exception):
    """The reason why a row has no record; BLANK for a blank line."""


def with_outcome(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the columns of OUTCOME."""
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in OUTCOME.items())])


def parse_rows(
    rows: DataFrame, schema: pa.Schema, record_of: RecordOf, text_of: TextOf
) -> DataFrame:
    """Return a row of `schema` plus OUTCOME for each row, which has a file and a line.

    `text_of` is what the table of rejects shows of a row that `record_of` refuses.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    result = with_outcome(schema)

    def parse_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            found = [record_or_reason(row, record_of, text_of) for row in batch.to_pylist()]
            yield pa.RecordBatch.from_pylist(found, schema=result)

    return rows.mapInArrow(parse_batches, from_arrow_schema(result))


def record_or_reason(row: Record, record_of: RecordOf, text_of: TextOf) -> Record:
    """Return the record of a row, or the reason why it has none and its text."""
    position = {"file": row["file"], "line": row["line"]}
    try:
        return position | record_of(row)
    except UnusableLineError as unusable:
        return position | {"reason": str(unusable), "raw": text_of(row)}


def text_of_line(row: Mapping[str, Any]) -> str:
    """Return a raw line as text."""
    return str(row["raw"].decode("utf-8", "replace"))


def load_object(raw: bytes, load: Callable[[str], Any]) -> Record:
    """Parse a line as an object. Raises UnusableLineError."""
    if not raw.strip():
        raise UnusableLineError(BLANK)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UnusableLineError("not UTF-8") from None
    try:
        record = load(text)
    except ValueError as error:
        raise UnusableLineError(str(error)) from None
    if not isinstance(record, dict):
        raise UnusableLineError("not an object")
    return record


def type_name(value: Any) -> str:
    """Return the name of a value's type in JSON."""
    return "null" if value is None else TYPE_NAMES.get(type(value), "object")
