"""The head of a table's file: its columns, learned without reading the rest."""

from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from etl.catalogue.literals import load_json
from etl.catalogue.raw import RawFile, numbered_lines
from etl.tabular.delimited import CsvFile, open_csv
from etl.tabular.listing import CSV, JSON_LINES, PARQUET, kind_of
from mdsrec.errors import InputError
from mdsrec.files import file_system, first_line

HEAD_LINES = 1000  # of JSON lines, which have no header


@dataclass(frozen=True)
class TableFile:
    """A file with its columns. `csv` is set for CSV, `group_rows` for Parquet."""

    uri: str
    kind: str
    names: tuple[str, ...]
    csv: CsvFile | None = None
    size: int = 0  # of JSON lines
    group_rows: tuple[int, ...] = ()  # rows of each row group


def open_table(file: RawFile, separator: str | None) -> TableFile:
    """Read the head of a file. InputError if it is not what its suffix says."""
    kind = kind_of(file.uri)
    if kind == CSV:
        csv = open_csv(file.uri, separator)
        return TableFile(file.uri, kind, csv.names, csv)
    if kind == PARQUET:
        return _open_parquet(file.uri)
    return TableFile(file.uri, JSON_LINES, _keys_of_lines(file.uri), size=file.size)


def _open_parquet(uri: str) -> TableFile:
    filesystem, path = file_system(uri)
    try:
        metadata = pq.read_metadata(path, filesystem=filesystem)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri}: not Parquet: {first_line(error)}") from None
    names = tuple(metadata.schema.to_arrow_schema().names)
    for position, name in enumerate(names):
        if name in names[:position]:
            raise InputError(f"{uri}: two columns are named {name!r}: rename one")
    rows = tuple(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
    return TableFile(uri, PARQUET, names, group_rows=rows)


def _keys_of_lines(uri: str) -> tuple[str, ...]:
    """Return the keys of the first lines, in order of appearance."""
    keys: dict[str, None] = {}
    first = b""
    for _, line in islice(numbered_lines(uri), HEAD_LINES):
        first = first or line.strip()
        try:
            record = load_json(line.decode("utf-8", "replace"))
        except ValueError:
            continue
        keys |= dict.fromkeys(record if isinstance(record, dict) else ())
    if not keys:
        found = "a JSON array" if first[:1] == b"[" else "no JSON object"
        raise InputError(
            f"{uri}: {found} in its first lines: write one JSON object for each row, each on a line"
        )
    return tuple(keys)
