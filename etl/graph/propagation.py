"""N(O) E of Eq. 3 over the items that have a modality.                       n items, d width.

A task computes the rows of one span of items. It reads the span's rows of O and streams E in
blocks, so neither pairs nor vectors are shuffled, and memory holds one span and one block. O is
restricted to items that have the modality before it is normalized: entries of other items neither
meet a row of E nor count in a degree. Sums are float64 over blocks of a fixed size, so they do not
depend on the partitioning.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from scipy import sparse

from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.part_files import write_part_file
from etl.spark.vector_table import ItemTable, VectorTable, vector_rows
from mdsrec.arrays import Floats, Ints

Rows = tuple[Ints, Floats]  # items, ascending, and a row for each
ReadRows = Callable[[int, int], Rows]  # (first, last) -> the rows of first <= item < last

SPAN_BYTES = 256 << 20  # of the float64 sums of a task, or of its entries of O
ENTRY_BYTES = 48  # memory of an entry of O while it is sorted


@dataclass(frozen=True)
class Propagation:
    """N(O) E by spans of its rows."""

    graph: ItemTable  # O
    E: VectorTable
    num_items: int

    def rows(self, normalize: str, degrees: VectorTable | None, first: int, last: int) -> Rows:
        """Return the rows of a span that are not empty.

        `normalize` is row, symmetric or none. `degrees` is needed for symmetric only.
        """

        def read_columns(start: int, stop: int) -> Rows:
            items, vectors = self.E.read(start, stop)
            columns = vectors.astype(np.float64)
            if degrees is not None:
                connected, degree = degrees.read(start, stop)
                columns[np.isin(items, connected)] /= np.sqrt(degree)
            return items, columns

        items, sums = self._sums(first, last, read_columns, self.E.width)
        product, degree = sums[:, :-1], sums[:, -1:]
        if normalize == "row":
            product /= degree
        elif normalize == "symmetric":
            product /= np.sqrt(degree)
        return items, product

    def degrees(self, first: int, last: int) -> Rows:
        """Return the row sums [n, 1] of O over the items that have the modality."""

        def read_columns(start: int, stop: int) -> Rows:
            items = self._items(start, stop)
            return items, np.empty((len(items), 0))

        return self._sums(first, last, read_columns, 0)

    def _sums(self, first: int, last: int, read_columns: ReadRows, width: int) -> Rows:
        """Return O times [columns | 1] for the items that have an entry -> [n, width + 1]."""
        items = self._items(first, last)
        rows, others, scores = self._entries(items, first, last)
        sums = np.zeros((len(items), width + 1))
        for start, stop in block_ranges(self.num_items, block_size(self.E.width)):
            block = slice(*np.searchsorted(others, [start, stop]))
            if block.start == block.stop:
                continue
            present, columns = read_columns(start, stop)
            has_modality = np.isin(others[block], present)
            touched, row = np.unique(rows[block][has_modality], return_inverse=True)
            column = np.searchsorted(present, others[block][has_modality])
            weights = sparse.csr_matrix(
                (scores[block][has_modality], (row, column)), (len(touched), len(present))
            )
            sums[touched] += weights @ np.hstack([columns, np.ones((len(present), 1))])
        connected = np.flatnonzero(sums[:, -1])
        return items[connected], sums[connected]

    def _items(self, first: int, last: int) -> Ints:
        rows = self.E.rows.read(first, last, ["item"])
        return np.asarray(rows.column("item").to_numpy().astype(np.int64))

    def _entries(self, items: Ints, first: int, last: int) -> tuple[Ints, Ints, Floats]:
        """Return row (a position in `items`), column and score of the entries, by column."""
        table = self.graph.read(first, last, ["item", "other", "score"])
        item, other, score = (table.column(name).to_numpy() for name in table.column_names)
        entry = np.flatnonzero(np.isin(item, items))
        entry = entry[np.argsort(other[entry], kind="stable")]
        return np.searchsorted(items, item[entry]), other[entry], score[entry]


def span_size(width: int, num_pairs: int, num_items: int) -> int:
    """Return how many items fill SPAN_BYTES, by their sums or their rows of O if these are larger.

    `num_pairs` is the number of entries of O.
    """
    bytes_per_item = max(8 * width, ENTRY_BYTES * num_pairs // num_items)
    return max(1, SPAN_BYTES // bytes_per_item)


def write_rows(
    spark: SparkSession, read_rows: ReadRows, num_items: int, span: int, version: str
) -> int:
    """Write all rows as files below `version`, one task per span, and return their number."""
    spans = list(block_ranges(num_items, span))
    write = partial(_write_span, read_rows, spans, version)
    written = map_blocks(spark, len(spans), write, "rows long")
    return sum(row.rows for row in written.collect())


def _write_span(
    read_rows: ReadRows, spans: list[tuple[int, int]], version: str, number: int
) -> Iterator[pa.RecordBatch]:
    items, rows = read_rows(*spans[number])
    write_part_file(version, f"part-{number:05d}", vector_rows(items, rows))
    yield pa.RecordBatch.from_pydict({"rows": [len(items)]})
