"""N(O) E of Eq. 3 over the items that have a modality.                       n items, d width.

A task makes the rows of one span of items: it reads the span's rows of O and streams E past them
in blocks, so neither pairs nor vectors are shuffled, and memory is a span and a block. O is
restricted to items that have the modality before it is normalised: an entry of any other item
meets no row of E and counts in no degree. Sums run in float64 over blocks of a fixed size, so they
do not depend on the partitioning.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import SparkSession
from scipy import sparse

from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.part_files import write_part_file
from etl.spark.vector_table import ItemTable, VectorTable, vector_rows
from mdsrec.arrays import Ints

Matrix = npt.NDArray[np.float64]
Rows = tuple[Ints, Matrix]  # items, ascending, and a row for each
BetweenItems = Callable[[int, int], Rows]  # the rows of first <= item < last

SPAN_BYTES = 256 << 20  # of the float64 sums that a task holds, or of its entries of O
ENTRY_BYTES = 48  # of an entry while it is sorted


@dataclass(frozen=True)
class Propagation:
    """N(O) E by spans of its rows."""

    graph: ItemTable  # O
    E: VectorTable
    num_items: int

    def rows(self, normalize: str, degrees: VectorTable | None, first: int, last: int) -> Rows:
        """Rows of the items that co-occur with one of the modality; `normalize` is row, symmetric
        (which needs `degrees`) or none.
        """

        def of_columns(start: int, stop: int) -> Rows:
            items, vectors = self.E.read(start, stop)
            columns = vectors.astype(np.float64)
            if degrees is not None:
                known, degree = degrees.read(start, stop)
                columns[np.isin(items, known)] /= np.sqrt(degree)
            return items, columns

        items, sums = self._sums(first, last, of_columns, self.E.width)
        product, degree = sums[:, :-1], sums[:, -1:]
        if normalize == "row":
            product /= degree
        elif normalize == "symmetric":
            product /= np.sqrt(degree)
        return items, product

    def degrees(self, first: int, last: int) -> Rows:
        """Row sums of O over the items of the modality [n, 1]."""

        def of_columns(start: int, stop: int) -> Rows:
            items = self._items(start, stop)
            return items, np.empty((len(items), 0))

        return self._sums(first, last, of_columns, 0)

    def _sums(self, first: int, last: int, of_columns: BetweenItems, width: int) -> Rows:
        """O times [columns | 1] for the items that have an entry -> [n, width + 1]."""
        items = self._items(first, last)
        rows, others, scores = self._entries(items, first, last)
        sums = np.zeros((len(items), width + 1))
        for start, stop in block_ranges(self.num_items, block_size(self.E.width)):
            part = slice(*np.searchsorted(others, [start, stop]))
            if part.start == part.stop:
                continue
            present, columns = of_columns(start, stop)
            having = np.isin(others[part], present)
            met, row = np.unique(rows[part][having], return_inverse=True)
            column = np.searchsorted(present, others[part][having])
            weights = sparse.csr_matrix(
                (scores[part][having], (row, column)), (len(met), len(present))
            )
            sums[met] += weights @ np.hstack([columns, np.ones((len(present), 1))])
        met = np.flatnonzero(sums[:, -1])
        return items[met], sums[met]

    def _items(self, first: int, last: int) -> Ints:
        rows = self.E.rows.read(first, last, ["item"])
        return np.asarray(rows.column("item").to_numpy().astype(np.int64))

    def _entries(self, items: Ints, first: int, last: int) -> tuple[Ints, Ints, Matrix]:
        """Row (a position in `items`), column and score of the items' entries, by column."""
        table = self.graph.read(first, last, ["item", "other", "score"])
        item, other, score = (table.column(name).to_numpy() for name in table.column_names)
        kept = np.flatnonzero(np.isin(item, items))
        kept = kept[np.argsort(other[kept], kind="stable")]
        return np.searchsorted(items, item[kept]), other[kept], score[kept]


def span_size(width: int, num_pairs: int, num_items: int) -> int:
    """Items whose sums fill SPAN_BYTES, or whose rows of O do if these are longer."""
    bytes_an_item = max(8 * width, ENTRY_BYTES * num_pairs // num_items)
    return max(1, SPAN_BYTES // bytes_an_item)


def write_rows(
    spark: SparkSession, between: BetweenItems, num_items: int, span: int, version: str
) -> int:
    """All rows of `between` as parts under `version`, a task a span -> how many there are."""
    spans = list(block_ranges(num_items, span))
    write = partial(_write_span, between, spans, version)
    written = map_blocks(spark, len(spans), write, "rows long")
    return sum(row.rows for row in written.collect())


def _write_span(
    between: BetweenItems, spans: list[tuple[int, int]], version: str, number: int
) -> Iterator[pa.RecordBatch]:
    items, rows = between(*spans[number])
    write_part_file(version, f"part-{number:05d}", vector_rows(items, rows))
    yield pa.RecordBatch.from_pydict({"rows": [len(items)]})
