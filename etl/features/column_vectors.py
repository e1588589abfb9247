"""Vectors in a column of the table of items."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from etl.catalogue.literals import load_json
from etl.catalogue.parsing import UnusableLineError
from etl.catalogue.raw import numbered_lines
from etl.features.vector_blocks import VectorBatch
from etl.features.vector_columns import is_vector, vector_lists
from etl.tabular.delimited import CsvFile, read_csv
from etl.tabular.table_file import TableFile
from etl.tabular.values import id_text, is_null
from mdsrec.errors import InputError
from mdsrec.files import file_system, first_line

ROWS_PER_BATCH = 1024


@dataclass(frozen=True)
class ColumnVectors:
    """A column of vectors; a block is a row group of Parquet, or a file of another kind.

    A row whose id is unusable has no label, a row without a vector an empty one.
    """

    files: tuple[TableFile, ...]
    key: str  # column of the item id
    column: str

    @property
    def blocks(self) -> list[tuple[TableFile, int]]:
        return [(file, n) for file in self.files for n in range(max(1, len(file.group_rows)))]

    def __len__(self) -> int:
        return len(self.blocks)

    def batches(self, block: int) -> Iterator[VectorBatch]:
        file, group = self.blocks[block]
        if file.csv is not None:
            yield from self._of_cells(file.uri, self._csv_cells(file.csv))
        elif file.group_rows:
            yield from self._of_parquet(file.uri, group)
        else:
            yield from self._of_cells(file.uri, self._json_cells(file.uri))

    def _csv_cells(self, file: CsvFile) -> Iterator[tuple[int, Any, Any]]:
        whole = self.key in file.floats
        for row in read_csv(file, (self.key, self.column)):
            if row.cells is not None:
                key, cell = row.cells
                yield row.number, key.removesuffix(b".0") if whole else key, cell

    def _json_cells(self, uri: str) -> Iterator[tuple[int, Any, Any]]:
        for number, line in numbered_lines(uri):
            try:
                record = load_json(line.decode("utf-8"))
            except ValueError:  # a reject of the table of items
                continue
            if isinstance(record, dict):
                yield number, record.get(self.key), record.get(self.column)

    def _of_cells(self, uri: str, cells: Iterator[tuple[int, Any, Any]]) -> Iterator[VectorBatch]:
        while rows := list(islice(cells, ROWS_PER_BATCH)):
            vectors = [self._vector(f"{uri} row {number}", cell) for number, _, cell in rows]
            offsets = np.cumsum([0, *map(len, vectors)])
            yield VectorBatch(labels([key for _, key, _ in rows]), offsets, np.concatenate(vectors))

    def _vector(self, place: str, cell: Any) -> Any:
        if isinstance(cell, bytes):
            cell = "" if is_null(cell) else cell.decode("utf-8", "replace")
        if isinstance(cell, str):
            with suppress(ValueError):
                cell = load_json(cell) if cell.strip() else []
        try:
            numbers = np.array([] if cell is None else cell, np.float32)
        except (ValueError, TypeError):
            numbers = np.empty((0, 0), np.float32)
        if numbers.ndim != 1 or isinstance(cell, str):
            raise InputError(
                f"{place}: the cell of {self.column!r} is no list of numbers, as in [0.1, 0.2]"
            )
        return numbers

    def _of_parquet(self, uri: str, group: int) -> Iterator[VectorBatch]:
        filesystem, path = file_system(uri)
        try:
            with filesystem.open_input_file(path) as source:
                file = pq.ParquetFile(source)
                row = 1 + sum(file.metadata.row_group(n).num_rows for n in range(group))
                for batch in file.iter_batches(ROWS_PER_BATCH, [group], [self.key, self.column]):
                    keys, column = batch.column(self.key).to_pylist(), batch.column(self.column)
                    if is_vector(column.type):
                        lists = vector_lists(column)
                        offsets = lists.offsets.to_numpy().astype(np.int64)
                        values = lists.values.to_numpy(zero_copy_only=False)
                        yield VectorBatch(labels(keys), offsets, values)
                    else:
                        cells = zip(
                            range(row, row + len(keys)), keys, column.to_pylist(), strict=True
                        )
                        yield from self._of_cells(uri, cells)
                    row += len(keys)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{uri}: cannot be read: {first_line(error)}") from None


def labels(keys: Sequence[Any]) -> pa.Array:
    """Return item ids as UTF-8 bytes; null for an id that the table of items rejects."""
    return pa.array([_label(key) for key in keys], pa.binary())


def _label(key: Any) -> bytes | None:
    try:
        return id_text(key, "item").encode()
    except UnusableLineError:
        return None
