"""Chosen rows of a table. No more than one row group of the columns is read at a time.

A place is the number of a row in the table.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mdsrec import tables
from mdsrec.arrays import Ints
from mdsrec.errors import InputError
from mdsrec.files import first_line
from mdsrec.parquet_groups import StoredGroup, read_group
from mdsrec.tables import ETL_FIRST, READ_ERRORS


class PlacedGroup(NamedTuple):
    """A row group, and its places first <= place < last."""

    stored: StoredGroup
    first: int
    last: int


class TableRows:
    """Some columns of a table, in the types of its schema. InputError if it is absent or damaged.

    The group that was read last is kept.
    """

    def __init__(self, uri: str, table_schema: pa.Schema, columns: Sequence[str]) -> None:
        self._uri = uri
        self._schema = pa.schema([table_schema.field(name) for name in columns])
        self._manifest = tables.open_table(uri)
        self.num_rows = self._manifest.rows
        stored = tables.stored_groups(uri, self._manifest)
        self._ends = np.cumsum([0, *(group.rows for group in stored)])
        places = zip(stored, self._ends.tolist(), self._ends[1:].tolist(), strict=False)
        self.groups = [PlacedGroup(*group) for group in places]
        self._last_group = lru_cache(maxsize=1)(self.read)

    def read(self, group: PlacedGroup) -> pa.Table:
        """Return the rows of a group."""
        try:
            rows = read_group(self._uri, group.stored, self._schema.names)
            return rows.select(self._schema.names).cast(self._schema)
        except InputError:
            raise
        except READ_ERRORS as error:
            message = first_line(error)
            raise InputError(f"{self._uri}: unreadable ({message}): {ETL_FIRST}") from None

    def between(self, first: int, last: int) -> pa.Table:
        """Return the rows of the places first <= place < last."""
        parts = [self._schema.empty_table()]
        for group in self._groups_from(first):
            if group.first >= last:
                break
            start = max(first, group.first)
            parts.append(self._last_group(group).slice(start - group.first, last - start))
        return pa.concat_tables(parts)

    def at(self, places: Ints) -> pa.Table:
        """Return the rows of some places, which ascend."""
        parts, done = [self._schema.empty_table()], 0
        while done < len(places):
            group = next(self._groups_from(int(places[done])))
            end = int(np.searchsorted(places, group.last))
            parts.append(self._last_group(group).take(places[done:end] - group.first))
            done = end
        return pa.concat_tables(parts)

    def where(self, column: str, values: Ints) -> pa.Table:
        """Return the rows whose `column`, the leading one of the table, is one of `values`.

        Groups that hold none of these are not read.
        """
        parts = [self._schema.empty_table()]
        for group in self.groups:
            low, high = group.stored.first, group.stored.last
            inside = values
            if low is not None and high is not None:
                inside = values[(values >= low) & (values <= high)]
            if len(inside):
                rows = self.read(group)
                parts.append(rows.filter(pc.is_in(rows[column], pa.array(inside))))
        return pa.concat_tables(parts)

    def _groups_from(self, place: int) -> Iterator[PlacedGroup]:
        start = int(np.searchsorted(self._ends, place, side="right")) - 1
        return iter(self.groups[start:])


def smallest_ints(uri: str, table_schema: pa.Schema, column: str) -> Ints:
    """Return a column of counts in the smallest type that holds them all, read in batches."""
    manifest = tables.open_table(uri)
    counts: Ints = np.empty(manifest.rows, dtype=np.uint8)
    done = 0
    for batch in tables.stream_table(uri, manifest, table_schema, [column]):
        part = batch.column(0).to_numpy()
        needed = np.result_type(counts, np.min_scalar_type(part.max(initial=0)))
        counts = counts.astype(needed, copy=False)
        counts[done : done + len(part)] = part
        done += len(part)
    return counts
