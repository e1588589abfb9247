"""Tables sorted by item, read inside a task by ranges of items.

Tasks read the Parquet row groups directly, so no row passes through the JVM.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs

from mdsrec import tables
from mdsrec.arrays import Counts, Ints, fixed_lists
from mdsrec.files import file_system
from mdsrec.parquet_groups import StoredGroup, read_footers, read_group, stored_groups
from mdsrec.schema import FEATURES

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ItemTable:
    """The row groups of a table sorted by item. It is small, so it can be sent to every task."""

    uri: str
    groups: tuple[StoredGroup, ...]
    schema: pa.Schema

    @classmethod
    def open(cls, uri: str, schema: pa.Schema) -> Self:
        """Return the committed table at `uri`."""
        return cls(uri, tuple(tables.stored_groups(uri, tables.open_table(uri))), schema)

    @classmethod
    def uncommitted(cls, version: str, schema: pa.Schema) -> Self:
        """Return the part files in the folder `version`, which is not committed as a table."""
        filesystem, path = file_system(version)
        found = filesystem.get_file_info(fs.FileSelector(path))
        paths = sorted(info.path for info in found if info.path.endswith(".parquet"))
        groups = stored_groups(paths, read_footers(paths, filesystem))
        return cls(version, tuple(groups), schema)

    def read(self, first: int, last: int, columns: Sequence[str]) -> pa.Table:
        """Return the rows of items first <= item < last.

        Calls with ascending ranges read each row group once: the last few are cached.
        """
        names = tuple(columns)
        slices = []
        for place in np.flatnonzero((self._firsts < last) & (self._lasts >= first)):
            table = _read_row_group(self.uri, self.groups[place], names)
            items = table.column("item").to_numpy()
            start, stop = np.searchsorted(items, [first, last])
            slices.append(table.slice(start, stop - start))
        wanted = pa.schema([self.schema.field(name) for name in names])
        return pa.concat_tables(slices) if slices else wanted.empty_table()

    @cached_property
    def _firsts(self) -> Counts:
        """Return the lowest item of each row group."""
        return np.array([group.first for group in self.groups], dtype=np.int64)

    @cached_property
    def _lasts(self) -> Counts:
        """Return the highest item of each row group."""
        return np.array([group.last for group in self.groups], dtype=np.int64)


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
    lists = fixed_lists(vectors.astype(np.float32, copy=False))
    return pa.Table.from_arrays([pa.array(items.astype(np.int32)), lists], schema=FEATURES)


@lru_cache(maxsize=4)  # a task reads two tables, and a range may touch two row groups of each
def _read_row_group(uri: str, group: StoredGroup, columns: tuple[str, ...]) -> pa.Table:
    return read_group(uri, group, columns)
