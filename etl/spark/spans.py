"""Tables of vectors read inside a task, by ranges of item ids: no row passes through the JVM."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mdsrec import tables
from mdsrec.files import file_system
from mdsrec.schema import FEATURES

Ints = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

BLOCK_BYTES = 32 << 20  # of the vectors that are worked on together


@dataclass(frozen=True)
class ByItem:
    """A committed table sorted by item; small enough to be sent to every task."""

    uri: str
    paths: tuple[str, ...]
    schema: pa.Schema

    @classmethod
    def of(cls, uri: str, schema: pa.Schema) -> "ByItem":
        return cls(uri, tuple(tables.data_files(uri, tables.open_table(uri))), schema)

    @classmethod
    def below(cls, version: str, schema: pa.Schema) -> "ByItem":
        """Parts that are not committed."""
        filesystem, path = file_system(version)
        found = filesystem.get_file_info(fs.FileSelector(path))
        paths = sorted(info.path for info in found if info.path.endswith(".parquet"))
        return cls(version, tuple(paths), schema)

    def between(self, first: int, last: int, columns: Sequence[str]) -> pa.Table:
        """The rows of items first <= item < last. Asking in order reads each row group once."""
        names = tuple(columns)
        parts = []
        for group in _row_groups(self):
            if group.first < last and first <= group.last:
                table = _read_group(self.uri, group.path, group.number, names)
                items = table.column("item").to_numpy()
                start, stop = np.searchsorted(items, [first, last])
                parts.append(table.slice(start, stop - start))
        wanted = pa.schema([self.schema.field(name) for name in names])
        return pa.concat_tables(parts) if parts else wanted.empty_table()


class RowGroup(NamedTuple):
    path: str
    number: int
    first: int  # its lowest and highest item
    last: int


@dataclass(frozen=True)
class VectorTable:
    """A table of (item, vector)."""

    rows: ByItem
    width: int

    @classmethod
    def of(cls, uri: str) -> "VectorTable":
        return cls(ByItem.of(uri, FEATURES), int(tables.open_table(uri).counters["width"]))

    def between(self, first: int, last: int) -> tuple[Ints, Vectors]:
        """Items of the range that have a vector, ascending [n], and their vectors [n, d]."""
        table = self.rows.between(first, last, ["item", "vector"])
        parts = [np.empty((0, self.width), np.float32)]
        parts += [
            chunk.flatten().to_numpy().reshape(-1, self.width)
            for chunk in table.column("vector").chunks
        ]
        return table.column("item").to_numpy().astype(np.int64), np.concatenate(parts)


def vector_rows(items: Ints, vectors: npt.NDArray[np.floating]) -> pa.Table:
    """Rows of FEATURES; `vectors` [n, d] are rounded to float32."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    offsets = pa.array(np.arange(len(items) + 1, dtype=np.int32) * vectors.shape[1])
    lists = pa.ListArray.from_arrays(offsets, flat)
    return pa.Table.from_arrays([pa.array(items.astype(np.int32)), lists], schema=FEATURES)


def block_size(width: int) -> int:
    """Items whose vectors fill BLOCK_BYTES: a power of two, the same for any partitioning."""
    return 1 << max(8, (BLOCK_BYTES // (4 * width)).bit_length() - 1)


def ranges(num_items: int, size: int) -> Iterator[tuple[int, int]]:
    """[0, size), [size, 2 size), ... up to num_items."""
    for first in range(0, num_items, size):
        yield first, min(first + size, num_items)


@lru_cache(maxsize=16)
def _row_groups(table: ByItem) -> list[RowGroup]:
    filesystem, _ = file_system(table.uri)
    found = []
    for path in table.paths:
        metadata = pq.read_metadata(path, filesystem=filesystem)
        column = metadata.schema.names.index("item")
        for number in range(metadata.num_row_groups if metadata.num_rows else 0):
            statistics = metadata.row_group(number).column(column).statistics
            found.append(RowGroup(path, number, statistics.min, statistics.max))
    return found


@lru_cache(maxsize=4)  # of two tables, in each of which a range may lie on the border of two
def _read_group(uri: str, path: str, number: int, columns: tuple[str, ...]) -> pa.Table:
    filesystem, _ = file_system(uri)
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        return file.read_row_group(number, list(columns))
