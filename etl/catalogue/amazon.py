"""Parsers of the three editions of the Amazon reviews: each raw line gives a record or a reason.

2014: reviews are JSON lines, metadata are Python dict literals. 2018: JSON lines. 2023: JSON lines
with `parent_asin` and times in milliseconds. Times keep the unit of the edition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.catalogue.literals import load_json, load_literal
from etl.catalogue.metadata import metadata_fields, replace_surrogates
from etl.catalogue.parsing import (
    Record,
    UnusableLineError,
    load_object,
    parse_rows,
    text_of_line,
    type_name,
)
from mdsrec.schema import INTERACTIONS, METADATA

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

YEAR_2100 = 4_102_444_800  # seconds since 1970
USER = {"2014": "reviewerID", "2018": "reviewerID", "2023": "user_id"}
ASIN = {"2014": "asin", "2018": "asin", "2023": "parent_asin"}
TIME = {"2014": "unixReviewTime", "2018": "unixReviewTime", "2023": "timestamp"}
TICKS_PER_SECOND = {"2014": 1, "2018": 1, "2023": 1000}  # unit of the edition's times


def parse_reviews(lines: DataFrame, edition: str) -> DataFrame:
    """Return a row of INTERACTIONS plus OUTCOME for each line."""

    def record_of(row: Record) -> Record:
        return review_record(edition, row["raw"])

    return parse_rows(lines, INTERACTIONS, record_of, text_of_line)


def parse_metadata(lines: DataFrame, edition: str) -> DataFrame:
    """Return a row of METADATA plus OUTCOME for each line."""

    def record_of(row: Record) -> Record:
        return metadata_record(edition, row["raw"])

    return parse_rows(lines, METADATA, record_of, text_of_line)


def review_record(edition: str, raw: bytes) -> Record:
    """Return user_id, item_id and time of one raw line. Raises UnusableLineError."""
    record = load_object(raw, load_json)
    return {
        "user_id": _required_string(record, USER[edition]),
        "item_id": _required_string(record, ASIN[edition]),
        "time": _time(record, TIME[edition], YEAR_2100 * TICKS_PER_SECOND[edition]),
    }


def metadata_record(edition: str, raw: bytes) -> Record:
    """Return item_id and `metadata_fields` of one raw line. Raises UnusableLineError."""
    record = load_object(raw, load_literal if edition == "2014" else load_json)
    item_id = _required_string(record, ASIN[edition])
    try:
        return {"item_id": item_id, **metadata_fields(record, edition)}
    except RecursionError:
        raise UnusableLineError("nested too deeply") from None


def _required_string(record: Record, field: str) -> str:
    if field not in record:
        raise UnusableLineError(f"missing {field}")
    value = record[field]
    if not isinstance(value, str):
        raise UnusableLineError(f"{field} is {type_name(value)}, not string")
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
        raise UnusableLineError(f"{field} is {type_name(value)}, not number")
    if isinstance(value, float) and not value.is_integer():
        raise UnusableLineError(f"{field} is not a whole number")
    if value < 0:
        raise UnusableLineError("negative time")
    if value >= end:
        raise UnusableLineError("time after 2100")
    return int(value)
