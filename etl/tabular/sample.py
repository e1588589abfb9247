"""The first rows of a table's file, and the kinds of values in its columns."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from etl.catalogue.literals import load_json
from etl.catalogue.parsing import UnusableLineError
from etl.catalogue.raw import numbered_lines
from etl.tabular.columns import recognized
from etl.tabular.delimited import read_csv
from etl.tabular.rows import python_values
from etl.tabular.table_file import TableFile
from etl.tabular.times import DAY, MOST_OTHERS
from etl.tabular.values import (
    DATES,
    EPOCH,
    LONGEST,
    NUMBER,
    Moment,
    content_of,
    id_text,
    is_null,
    moment,
)
from mdsrec.errors import InputError
from mdsrec.files import file_system, first_line

ROWS = 10_000
RECENT = 946_684_800  # 2000-01-01; a number since then may be a time, whatever its column's name
PADDED = re.compile(r"0\d")
LEAST_WIDTH = 3  # of a list of numbers that may be a vector


@dataclass(frozen=True)
class Column:
    """A column of a sample; its values are the cells that are neither null nor empty."""

    name: str
    cells: Sequence[Any]
    """Of all rows, as they are."""

    @cached_property
    def values(self) -> list[Any]:
        return [cell for cell in self.cells if not _is_empty(cell)]

    @property
    def num_empty(self) -> int:
        return len(self.cells) - len(self.values)

    @cached_property
    def kind(self) -> str:
        """The kind of most values: text, whole numbers, numbers, dates, vectors, ..."""
        kinds = Counter(map(_kind, self.values[:1000])).most_common(1)
        return kinds[0][0] if kinds else "empty"

    @cached_property
    def width(self) -> int | None:
        """The width of vectors; None if the values are no lists of numbers of one width."""
        widths = {_width(value) for value in self.values}
        return widths.pop() if len(widths) == 1 else None

    @cached_property
    def times(self) -> list[Moment]:
        """The values that read as times of one kind; empty unless nearly all of them do.

        In a column without a usual name of a time, numbers must be between 2000 and today.
        """
        others = len(self.values) - len(self._moments)
        return self._moments if others <= MOST_OTHERS * len(self.values) else []

    @cached_property
    def _moments(self) -> list[Moment]:
        """The values that read as times of the most frequent kind."""
        named = bool(recognized("time", [self.name]))
        first, last = (0, LONGEST) if named else (RECENT, datetime.now(UTC).timestamp() + DAY)
        found: dict[str, list[Moment]] = defaultdict(list)
        for value in self.values:
            with suppress(UnusableLineError):
                read = moment(value, None)
                if read.kind == DATES or first <= read.micros / 10**6 <= last:
                    found[read.kind].append(read)
        return max(found.values(), key=len, default=[])

    @property
    def may_be_time(self) -> bool:
        return bool(self.times)

    @cached_property
    def ids(self) -> frozenset[str]:
        """The distinct values as ids."""
        found = set()
        for value in self.values:
            try:
                found.add(id_text(value, "id"))
            except UnusableLineError:
                continue
        return frozenset(found)

    @property
    def range(self) -> str:
        """The least and the greatest value, or the number of distinct ones and an example."""
        if not self.values:
            return ""
        if self.width is not None:
            return f"width {self.width}"
        if self.times or (self.kind == "dates" and self._moments):
            micros = [found.micros for found in self._moments]
            others = len(self.values) - len(micros)
            found = f"times in {self._moments[0].kind}: {_day(min(micros))} .. {_day(max(micros))}"
            return f"{found}, {others:,} others" if others else found
        if self.kind in ("whole numbers", "numbers"):
            least, greatest = self._extremes
            return f"{least} .. {greatest}, {len(self.ids):,} distinct"
        example = " ".join(str(content_of(self.values[0])).split())
        return f"{len(set(map(repr, self.values))):,} distinct, as {example[:40]!r}"

    @property
    def _extremes(self) -> tuple[str, str]:
        """The least and the greatest number; as they are written if one begins with a zero."""
        numbers = [value for value in self.values if _is_number(value)]
        ends = min(numbers, key=float), max(numbers, key=float)
        if any(isinstance(value, bytes | str) and PADDED.match(_text(value)) for value in numbers):
            return _text(ends[0]), _text(ends[1])
        return f"{float(ends[0]):.15g}", f"{float(ends[1]):.15g}"


@dataclass(frozen=True)
class Sample:
    """The first rows of a file. Those of another width than the header have no cells."""

    file: TableFile
    num_rows: int
    is_whole: bool  # the file has no more rows
    columns: dict[str, Column]

    @property
    def num_misfits(self) -> int:
        return self.num_rows - len(next(iter(self.columns.values())).cells)


def sample_of(file: TableFile, rows: int = ROWS) -> Sample:
    """Read the first rows of a file."""
    found = list(islice(_rows(file), rows + 1))
    full = [row for row in found[:rows] if row is not None]
    columns = {name: Column(name, [row[n] for row in full]) for n, name in enumerate(file.names)}
    return Sample(file, min(len(found), rows), len(found) <= rows, columns)


def _rows(file: TableFile) -> Iterator[Sequence[Any] | None]:
    """Yield the cells of each row; None for one of another width than the header."""
    if file.csv is not None:
        yield from (row.cells for row in read_csv(file.csv, file.names))
    elif file.kind == "Parquet":
        filesystem, path = file_system(file.uri)
        try:
            with filesystem.open_input_file(path) as source:
                for batch in pq.ParquetFile(source).iter_batches(1024):
                    yield from zip(*map(python_values, batch.columns), strict=True)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{file.uri}: cannot be read: {first_line(error)}") from None
    else:
        for _, line in numbered_lines(file.uri):
            try:
                record = load_json(line.decode("utf-8", "replace"))
            except ValueError:
                continue
            if isinstance(record, dict):
                yield [record.get(name) for name in file.names]


def _is_empty(cell: Any) -> bool:
    if isinstance(cell, bytes):
        return is_null(cell)
    return cell is None or cell == "" or cell != cell


def _is_number(value: Any) -> bool:
    if isinstance(value, bytes):
        return NUMBER.fullmatch(value.decode("utf-8", "replace").strip()) is not None
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    value = content_of(value)
    if isinstance(value, bool):
        return "booleans"
    if _width(value) is not None:
        return "vectors"
    if isinstance(value, list | tuple | dict):
        return "lists" if isinstance(value, list | tuple) else "objects"
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        return "dates" if _is_date(value) else "text"
    number = float(value)
    return "whole numbers" if number.is_integer() else "numbers"


def _is_date(text: str) -> bool:
    try:
        return moment(text, None).kind == DATES
    except UnusableLineError:
        return False


def _width(value: Any) -> int | None:
    value = content_of(value) if isinstance(value, bytes) else value
    if not isinstance(value, list | tuple) or len(value) < LEAST_WIDTH:
        return None
    is_vector = all(isinstance(n, int | float) and not isinstance(n, bool) for n in value)
    return len(value) if is_vector else None


def _text(value: Any) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()


def _day(micros: int) -> str:
    return str((EPOCH + timedelta(microseconds=micros)).date())
