"""Parsers of the three editions of the Amazon reviews: each raw line gives a record or a reason.

2014: reviews are JSON lines, metadata are Python dict literals. 2018: JSON lines. 2023: JSON lines
with `parent_asin` and times in milliseconds. Times keep the unit of the edition.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from etl.catalogue.literals import load_json, load_literal
from etl.catalogue.metadata import Record, metadata_fields, replace_surrogates
from mdsrec.schema import INTERACTIONS, METADATA

YEAR_2100 = 4_102_444_800  # seconds since 1970
BLANK = "blank"
USER = {"2014": "reviewerID", "2018": "reviewerID", "2023": "user_id"}
ASIN = {"2014": "asin", "2018": "asin", "2023": "parent_asin"}
TIME = {"2014": "unixReviewTime", "2018": "unixReviewTime", "2023": "timestamp"}
TICKS_PER_SECOND = {"2014": 1, "2018": 1, "2023": 1000}  # unit of the edition's times
TYPE_NAMES = {str: "string", bool: "boolean", int: "number", float: "number", list: "list"}
OUTCOME = {
    "reason": pa.string(),  # null for a usable line
    "raw": pa.string(),  # null for a usable line
    "notes": pa.list_(pa.string()),  # counters that a usable line adds to
}


class UnusableLineError(Exception):
    """The reason why a line has no record; BLANK for a blank line."""


def parse_reviews(lines: DataFrame, edition: str) -> DataFrame:
    """Return a row of INTERACTIONS plus OUTCOME for each line."""
    return _parse_lines(lines, INTERACTIONS, partial(review_record, edition))


def parse_metadata(lines: DataFrame, edition: str) -> DataFrame:
    """Return a row of METADATA plus OUTCOME for each line."""
    return _parse_lines(lines, METADATA, partial(metadata_record, edition))


def review_record(edition: str, raw: bytes) -> Record:
    """Return user_id, item_id and time of one raw line. Raises UnusableLineError."""
    record = _load_object(raw, load_json)
    return {
        "user_id": _required_string(record, USER[edition]),
        "item_id": _required_string(record, ASIN[edition]),
        "time": _time(record, TIME[edition], YEAR_2100 * TICKS_PER_SECOND[edition]),
    }


def metadata_record(edition: str, raw: bytes) -> Record:
    """Return item_id and `metadata_fields` of one raw line. Raises UnusableLineError."""
    record = _load_object(raw, load_literal if edition == "2014" else load_json)
    item_id = _required_string(record, ASIN[edition])
    try:
        return {"item_id": item_id, **metadata_fields(record, edition)}
    except RecursionError:
        raise UnusableLineError("nested too deeply") from None


def _parse_lines(
    lines: DataFrame, schema: pa.Schema, parse: Callable[[bytes], Record]
) -> DataFrame:
    from pyspark.sql.pandas.types import from_arrow_schema

    result = pa.schema([*schema, *(pa.field(name, kind) for name, kind in OUTCOME.items())])

    def parse_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = [_record_or_reason(row, parse) for row in batch.to_pylist()]
            yield pa.RecordBatch.from_pylist(rows, schema=result)

    return lines.mapInArrow(parse_batches, from_arrow_schema(result))


def _record_or_reason(row: Record, parse: Callable[[bytes], Record]) -> Record:
    position = {"file": row["file"], "line": row["line"]}
    try:
        return position | parse(row["raw"])
    except UnusableLineError as unusable:
        raw = row["raw"].decode("utf-8", "replace")
        return position | {"reason": str(unusable), "raw": raw}


def _load_object(raw: bytes, load: Callable[[str], Any]) -> Record:
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


def _required_string(record: Record, field: str) -> str:
    if field not in record:
        raise UnusableLineError(f"missing {field}")
    value = record[field]
    if not isinstance(value, str):
        raise UnusableLineError(f"{field} is {_type_name(value)}, not string")
    if not value.strip():
        raise UnusableLineError(f"{field} is empty")
    if value != replace_surrogates(value):
        raise UnusableLineError(f"{field} is not UTF-8")
    return value


def _time(record: Record, field: str, end: int) -> int:
    if field not in record:
        raise UnusableLineError(f"missing {field}")
    value = record[field]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableLineError(f"{field} is {_type_name(value)}, not number")
    if isinstance(value, float) and not value.is_integer():
        raise UnusableLineError(f"{field} is not a whole number")
    if value < 0:
        raise UnusableLineError("negative time")
    if value >= end:
        raise UnusableLineError("time after 2100")
    return int(value)


def _type_name(value: Any) -> str:
    return "null" if value is None else TYPE_NAMES.get(type(value), "object")
