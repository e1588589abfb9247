"""Values of cells, of any type: ids as text, times as moments, texts and images of items."""

import math
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from etl.catalogue.literals import unquoted
from etl.catalogue.metadata import replace_surrogates
from etl.catalogue.parsing import UnusableLineError

EXACT = 2**53  # whole numbers up to it are exact in a float
NULLS = ("null", "none", "nan", "n/a", "\\n")  # in CSV, in any case
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DATES = "dates"  # the kind of times that are not numbers
TICKS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""Ticks per second of each unit."""
LEAST = {"milliseconds": 10**11, "microseconds": 10**14, "nanoseconds": 10**17}
"""Numbers from here on are in this unit: 1973 in its own, the year 5138 in the unit before."""
SPACED_ZONE = re.compile(r" ([+-]\d\d:?\d\d)$")
LONGEST = 253_402_300_800  # seconds: the year 10000


class Moment(NamedTuple):
    """A time; `kind` is its unit, or DATES."""

    kind: str
    micros: int  # since 1970, rounded down


def id_text(value: Any, role: str) -> str:
    """Return an id as text: whole numbers as digits, also those that are stored as floats.

    Spaces around it are dropped.
    """
    if isinstance(value, bytes):
        value = _decoded(value, role)
        value = None if value.strip().lower() in NULLS else value
    if isinstance(value, float | Decimal):
        value = _number_text(value, role)
    if value is None:
        raise UnusableLineError(f"{role} is null")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnusableLineError(f"{role} is {_type_name(value)}, not text or a whole number")
    text = str(value).strip()
    if not text:
        raise UnusableLineError(f"{role} is empty")
    if "\n" in text or "\0" in text:
        raise UnusableLineError(f"{role} holds a line break")
    if text != replace_surrogates(text):
        raise UnusableLineError(f"{role} is not UTF-8")
    return text


def _decoded(value: bytes, role: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise UnusableLineError(f"{role} is not UTF-8") from None


def _number_text(value: float | Decimal, role: str) -> str | None:
    """Return digits for a whole number, otherwise the shortest decimal; None for NaN."""
    if value != value:
        return None
    if not math.isfinite(value) or (isinstance(value, float) and abs(value) > EXACT):
        raise UnusableLineError(f"{role} is a float that holds no exact whole number")
    return str(int(value)) if value == int(value) else str(value)


def moment(value: Any, unit: str | None) -> Moment:
    """Return a time. A number is in `unit`; None means the unit that its size suggests."""
    if isinstance(value, bytes):
        value = None if is_null(value) else _decoded(value, "time")
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "" or value != value:
        raise UnusableLineError("time is null")
    try:
        if isinstance(value, str):
            value = Decimal(value) if NUMBER.fullmatch(value) else _from_iso(value)
        if isinstance(value, date):
            return Moment(DATES, _micros(value))
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return _moment_of_number(value, unit)
    except (ValueError, ArithmeticError):
        raise UnusableLineError("time is not readable") from None
    raise UnusableLineError(f"time is {_type_name(value)}, not a number or a date")


def _moment_of_number(number: int | float | Decimal, unit: str | None) -> Moment:
    value = Decimal(repr(number)) if isinstance(number, float) else Decimal(number)
    kind = unit or "seconds"
    for name, least in LEAST.items() if unit is None else ():
        kind = name if abs(value) >= least else kind
    micros = int(value * Decimal(10**6) // TICKS[kind])
    if abs(micros) >= LONGEST * 10**6:
        raise ValueError
    return Moment(kind, micros)


def _from_iso(text: str) -> date:
    """Parse ISO 8601; ` UTC` at the end and a space before the offset are accepted too."""
    return datetime.fromisoformat(SPACED_ZONE.sub(r"\1", text.removesuffix(" UTC")))


def _micros(value: date) -> int:
    """Return the microseconds since 1970 of a date, or of a time; one without a zone is in UTC."""
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND


def is_null(cell: bytes) -> bool:
    """Return whether a cell of CSV is empty or says that it is null."""
    return cell.decode("utf-8", "replace").strip().lower() in ("", *NULLS)


def content_of(value: Any) -> Any:
    """Return what an item's cell holds, as JSON would: text, numbers, lists, mappings, or None.

    CSV is text, or the list or mapping that it writes.
    """
    if isinstance(value, bytes):
        if is_null(value):
            return None
        text = value.decode("utf-8", "replace")
        found = unquoted(text)
        return text if found is None else found
    if isinstance(value, dict):
        return {key: content_of(part) for key, part in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(part, tuple) for part in value):  # Arrow's form of a map
            return content_of(dict(value))
        return [content_of(part) for part in value]
    if value != value:
        return None
    return str(value) if isinstance(value, Decimal | date | time | timedelta) else value


def _type_name(value: Any) -> str:
    names = {bool: "a boolean", list: "a list", dict: "an object", str: "text", float: "a float"}
    return names.get(type(value), type(value).__name__)
