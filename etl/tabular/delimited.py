"""CSV files, parsed by Arrow: quoted line breaks, rows of another width, and their numbers."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import csv as arrow_csv

from etl.catalogue.compression import STREAM_ERRORS, open_stream, unreadable
from etl.catalogue.parsing import BLANK
from mdsrec.errors import InputError
from mdsrec.files import first_line, likely_separators

HEAD_BYTES = 1 << 20  # read to learn the header and the types
BLOCK_BYTES = 16 << 20  # no row may be longer
SAMPLE = 1000  # rows
FLOAT = re.compile(r"-?(0|[1-9]\d{0,14})\.0")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class CsvFile:
    """A CSV file with a header. `floats` are columns of whole numbers written as `1.0`."""

    uri: str
    names: tuple[str, ...]
    separator: str
    has_rows: bool
    floats: frozenset[str]


class CsvRow(NamedTuple):
    """A row. If it has another width than the header, it has no cells but a reason and its text."""

    number: int  # the header is row 1
    cells: list[bytes] | None
    reason: str | None
    text: str | None = None


def open_csv(uri: str, separator: str | None) -> CsvFile:
    """Read the head of a file. InputError if it has no usable header."""
    head = _read_head(uri)
    if head.startswith(UTF_16) or b"\0" in head:
        raise InputError(f"{uri}: not UTF-8 text: save the file in that encoding")
    text = head.decode("utf-8-sig", "replace")
    try:
        with _fields_of_any_size():
            chosen = separator or _recognize_separator(uri, text)
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=chosen)
            names = tuple(name.strip() for name in next(rows, ()))
            sample = list(islice(rows, SAMPLE))
    except csv.Error as error:
        raise InputError(f"{uri}: not CSV ({error})") from None
    _check_header(uri, names)
    whole = sample[:-1] if len(head) == HEAD_BYTES else sample  # the end may cut a row
    return CsvFile(uri, names, chosen, bool(sample), frozenset(_float_columns(names, whole)))


def read_csv(file: CsvFile, wanted: Sequence[str]) -> Iterator[CsvRow]:
    """Yield every row of a file, in order, with the cells of the `wanted` columns.

    InputError if a quote is never closed, because the rest of the file would be one cell.
    """
    if not file.has_rows:
        return
    labels = [f"c{n}" for n in range(len(file.names))]  # a name may be any text
    kept = [file.names.index(name) for name in wanted]
    misfits: dict[int, arrow_csv.InvalidRow] = {}
    tail, number, ends_in = _Tail(file.uri), 2, b""
    last: arrow_csv.InvalidRow | None = None
    try:
        with tail, _open_arrow(tail, labels, file.separator, misfits) as reader:
            for batch in reader:
                columns = [batch.column(n).to_pylist() for n in kept]
                for row in range(batch.num_rows):
                    while number in misfits:
                        yield _misfit(last := misfits.pop(number))
                        number += 1
                    cells = [column[row] for column in columns]
                    blank = not any(cells) and not any(column[row].as_py() for column in batch)
                    yield CsvRow(number, cells, BLANK if blank else None)
                    number, last = number + 1, None
                ends_in = batch.column(len(labels) - 1)[-1].as_py() if batch.num_rows else b""
        for number in sorted(misfits):
            yield _misfit(last := misfits[number])
    except STREAM_ERRORS as error:
        if not isinstance(error, pa.ArrowInvalid):
            raise unreadable(file.uri, error, f" after row {number}") from None
        raise InputError(
            f"{file.uri}: not CSV after row {number} ({first_line(error)}): is a quote never "
            "closed, or a row longer than 16 MiB or not UTF-8?"
        ) from None
    open_quote = last.text.count('"') % 2 if last else b"\n" in ends_in and not tail.is_quoted
    if open_quote:
        raise InputError(f"{file.uri}: the last row opens a quote that is never closed: mend it")


def _misfit(row: arrow_csv.InvalidRow) -> CsvRow:
    reason = f"{row.actual_columns} columns instead of {row.expected_columns}"
    return CsvRow(row.number, None, reason, row.text)


def _open_arrow(
    stream: io.RawIOBase,
    labels: list[str],
    separator: str,
    misfits: dict[int, arrow_csv.InvalidRow],
) -> arrow_csv.CSVStreamingReader:
    """Open a stream of CSV as columns of bytes; rows of another width are put in `misfits`."""

    def skip(row: arrow_csv.InvalidRow) -> str:
        misfits[row.number] = row
        return "skip"

    reading = arrow_csv.ReadOptions(
        use_threads=False, block_size=BLOCK_BYTES, column_names=labels, skip_rows_after_names=1
    )
    parsing = arrow_csv.ParseOptions(
        delimiter=separator,
        newlines_in_values=True,
        ignore_empty_lines=False,
        invalid_row_handler=skip,
    )
    conversion = arrow_csv.ConvertOptions(column_types=dict.fromkeys(labels, pa.binary()))
    return arrow_csv.open_csv(stream, reading, parsing, conversion)


class _Tail(io.RawIOBase):
    """A file, decompressed, that remembers whether its last value ends with a quote."""

    def __init__(self, uri: str) -> None:
        self._stream = open_stream(uri)
        self.is_quoted = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        if values := content.rstrip(b"\r\n"):
            self.is_quoted = values.endswith(b'"')
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _read_head(uri: str) -> bytes:
    try:
        with open_stream(uri) as stream:
            return stream.read(HEAD_BYTES)
    except STREAM_ERRORS as error:
        raise unreadable(uri, error) from None


@contextmanager
def _fields_of_any_size() -> Iterator[None]:
    """Raise the limit of the csv module, 128 KiB for a field, to the size of the head."""
    limit = csv.field_size_limit(HEAD_BYTES + 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _recognize_separator(uri: str, text: str) -> str:
    found = likely_separators(text)
    if len(found) > 1:
        listed = " or ".join(map(repr, found))
        raise InputError(f"{uri}: its columns may be separated by {listed}: set input.separator")
    return found[0]


def _check_header(uri: str, names: Sequence[str]) -> None:
    if not any(names):
        raise InputError(f"{uri}: the first row is empty: it must name the columns")
    if "\ufffd" in "".join(names):
        raise InputError(f"{uri}: the header is not UTF-8: save the file in that encoding")
    for position, name in enumerate(names):
        if name and name in names[:position]:
            raise InputError(f"{uri}: two columns are named {name!r}: rename one")


def _float_columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the columns whose cells are empty or whole numbers written as `1.0`."""
    for name, cells in zip(names, zip_longest(*rows, fillvalue=""), strict=False):
        filled = [cell for cell in cells if cell]
        if filled and all(map(FLOAT.fullmatch, filled)):
            yield name
