"""Tables sorted by item, read inside a task by ranges of items.

Tasks read the Parquet row groups directly, so no row passes through the JVM.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mdsrec import tables
from mdsrec.arrays import Ints
from mdsrec.files import file_system
from mdsrec.schema import FEATURES

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ItemTable:
    """The files of a table sorted by item. It is small, so it can be sent to every task."""

    uri: str
    paths: tuple[str, ...]
    schema: pa.Schema

    @classmethod
    def open(cls, uri: str, schema: pa.Schema) -> Self:
        """Return the committed table at `uri`."""
        return cls(uri, tuple(tables.data_files(uri, tables.open_table(uri))), schema)

    @classmethod
    def uncommitted(cls, version: str, schema: pa.Schema) -> Self:
        """Return the part files in the folder `version`, which is not committed as a table."""
        filesystem, path = file_system(version)
        found = filesystem.get_file_info(fs.FileSelector(path))
        paths = sorted(info.path for info in found if info.path.endswith(".parquet"))
        return cls(version, tuple(paths), schema)

    def read(self, first: int, last: int, columns: Sequence[str]) -> pa.Table:
        """Return the rows of items first <= item < last.

        Calls with ascending ranges read each row group once: the last few are cached.
        """
        names = tuple(columns)
        slices = []
        for group in _row_groups(self):
            if group.first < last and first <= group.last:
                table = _read_row_group(self.uri, group.path, group.number, names)
                items = table.column("item").to_numpy()
                start, stop = np.searchsorted(items, [first, last])
                slices.append(table.slice(start, stop - start))
        wanted = pa.schema([self.schema.field(name) for name in names])
        return pa.concat_tables(slices) if slices else wanted.empty_table()


class RowGroup(NamedTuple):
    """A row group of a Parquet file and the range of items in it."""

    path: str
    number: int
    first: int  # lowest item
    last: int  # highest item


@dataclass(frozen=True)
class VectorTable:
    """A table of (item, vector) with vectors of one width."""

    rows: ItemTable
    width: int

    @classmethod
    def open(cls, uri: str) -> Self:
        """Return the committed table at `uri`."""
        return cls(ItemTable.open(uri, FEATURES), int(tables.open_table(uri).counters["width"]))

    def read(self, first: int, last: int) -> tuple[Ints, Vectors]:
        """Return the items of [first, last) that have a vector, ascending [n], and these [n, d]."""
        table = self.rows.read(first, last, ["item", "vector"])
        parts = [np.empty((0, self.width), np.float32)]
        parts += [
            chunk.flatten().to_numpy().reshape(-1, self.width)
            for chunk in table.column("vector").chunks
        ]
        return table.column("item").to_numpy().astype(np.int64), np.concatenate(parts)


def vector_rows(items: Ints, vectors: npt.NDArray[np.floating]) -> pa.Table:
    """Return rows of the schema FEATURES; `vectors` [n, d] are rounded to float32."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    offsets = pa.array(np.arange(len(items) + 1, dtype=np.int32) * vectors.shape[1])
    lists = pa.ListArray.from_arrays(offsets, flat)
    return pa.Table.from_arrays([pa.array(items.astype(np.int32)), lists], schema=FEATURES)


@lru_cache(maxsize=16)
def _row_groups(table: ItemTable) -> list[RowGroup]:
    filesystem, _ = file_system(table.uri)
    found = []
    for path in table.paths:
        metadata = pq.read_metadata(path, filesystem=filesystem)
        column = metadata.schema.names.index("item")
        for number in range(metadata.num_row_groups if metadata.num_rows else 0):
            statistics = metadata.row_group(number).column(column).statistics
            found.append(RowGroup(path, number, statistics.min, statistics.max))
    return found


@lru_cache(maxsize=4)  # a task reads two tables, and a range may touch two row groups of each
def _read_row_group(uri: str, path: str, number: int, columns: tuple[str, ...]) -> pa.Table:
    filesystem, _ = file_system(uri)
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        return file.read_row_group(number, list(columns))
