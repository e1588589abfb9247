"""N(O) E of Eq. 3 over the items that have a modality.                       n items, d width.

Tasks read O by rows and send its entries to the tiles of the product (etl/graph/tiles.py), packed
by blocks of columns. The task of a tile takes the blocks in order: it reads the rows of E that a
block meets, once, and adds their products. O is restricted to items that have the modality before
it is normalized: entries of other items neither meet a row of E nor count in a degree. Sums are
float64 over blocks of a fixed size in ascending order, so they depend neither on the tiles nor on
the partitioning.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from scipy import sparse

from etl.graph.tiles import ENTRY, PACKED, Entries, Range, Tiles, pack_entries, unpack
from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.part_files import write_part_file
from etl.spark.vector_table import ItemTable, VectorTable, vector_rows
from mdsrec.arrays import Floats, Ints
from mdsrec.schema import FEATURES
from mdsrec.text import file_size

log = logging.getLogger("etl")

Batches = Iterator[pa.RecordBatch]
Pieces = Iterable[tuple[int, Entries]]  # entries of one block each, the blocks in ascending order
WRITTEN = "rows long, bytes long"


@dataclass(frozen=True)
class Propagation:
    """N(O) E by tiles."""

    graph: ItemTable  # O
    features: VectorTable  # E
    num_items: int
    tiles: Tiles
    normalize: str = "row"  # or symmetric, none
    degrees: VectorTable | None = None  # for symmetric

    @property
    def block_size(self) -> int:
        return block_size(self.features.width)

    def pack(self, file: int) -> Batches:
        """Yield the entries of a file's rows as PACKED."""
        table = self.graph.read(*self.tiles.files[file], list(ENTRY.names or ()))
        yield from pack_entries(table, self.block_size, file // self.tiles.files_per_span)

    def sums(self, span: Range, E: VectorTable | None, pieces: Pieces) -> tuple[Ints, Floats, int]:
        """Return O times [E | 1] for the items of a span -> items, sums [n, d + 1], bytes of E.

        `E` may be a slice of the features. None is an E without columns.
        """
        items = self._items(*span)
        row_of = _positions(items, *span)
        sums, num_bytes = np.zeros((len(items), 1 if E is None else E.width + 1)), 0
        for number, group in groupby(pieces, key=lambda piece: piece[0]):
            start, stop = number * self.block_size, (number + 1) * self.block_size
            present, columns = self._columns(start, stop, E)
            num_bytes += 4 * len(present) * (columns.shape[1] - 1)
            column_of = _positions(present, start, stop)
            for _, entries in group:
                row, column = row_of[entries["item"] - span[0]], column_of[entries["other"] - start]
                meets = (row >= 0) & (column >= 0)
                row, column, score = row[meets], column[meets], entries["score"][meets]
                starts = np.flatnonzero(np.diff(row, prepend=-1))
                weights = sparse.csr_matrix(
                    (score, column, [*starts, len(row)]), (len(starts), len(present))
                )
                sums[row[starts]] += weights @ columns
        return items, sums, num_bytes

    def normalized(self, items: Ints, sums: Floats) -> tuple[Ints, Floats]:
        """Return the items that have a row, and these rows of N(O) E, or their degrees."""
        connected = np.flatnonzero(sums[:, -1])
        product, degree = sums[connected, :-1], sums[connected, -1:]
        if not product.shape[1]:
            product = degree
        elif self.normalize == "row":
            product /= degree
        elif self.normalize == "symmetric":
            product /= np.sqrt(degree)
        return items[connected], product

    def _columns(self, start: int, stop: int, E: VectorTable | None) -> tuple[Ints, Floats]:
        """Return the items of a range that have the modality, and [E | 1], scaled for symmetric."""
        if E is None:
            items = self._items(start, stop)
            return items, np.ones((len(items), 1))
        items, vectors = E.read(start, stop)
        columns = np.ones((len(items), E.width + 1))
        columns[:, :-1] = vectors
        if self.degrees is not None:
            connected, degree = self.degrees.read(start, stop)
            columns[np.isin(items, connected), :-1] /= np.sqrt(degree)
        return items, columns

    def _items(self, first: int, last: int) -> Ints:
        rows = self.features.rows.read(first, last, ["item"])
        return np.asarray(rows.column("item").to_numpy().astype(np.int64))


def write_product(
    spark: SparkSession, product: Propagation, scratch: str, version: str, name: str
) -> int:
    """Write N(O) E as files below `version`, and return the number of its rows.

    With several slices, E is first written by slices, and those of the product are joined last.
    """
    tiles, num_slices = product.tiles, len(product.tiles.slices)
    num_bytes = 0
    if num_slices == 1:
        rows, num_bytes = write_tiles(spark, product, (product.features,), (version,))
    else:
        E, products = ([f"{scratch}/{kind}-{n}" for n in range(num_slices)] for kind in ("E", "NE"))
        num_bytes = _write_slices(spark, product, E)
        slices = _open_slices(tiles, E)
        _, more = write_tiles(spark, product, slices, tuple(products))
        num_bytes += more
        rows = _join_slices(spark, tiles, _open_slices(tiles, products), version)
    text = "%s: read %s of vectors, in %d spans of items and %d slices of a vector"
    figures = {"table": name, "vector_bytes": num_bytes, "spans": tiles.num_spans}
    size = file_size(num_bytes)
    log.info(text, name, size, tiles.num_spans, num_slices, extra={"figures": figures})
    return rows


def write_tiles(
    spark: SparkSession,
    product: Propagation,
    slices: tuple[VectorTable | None, ...],
    folders: tuple[str, ...],
) -> tuple[int, int]:
    """Write slice s of the product to `folders[s]` -> rows of all slices, bytes of E read."""
    count, tiles = len(slices), product.tiles
    first = F.col("span") * count
    write = partial(_write_tile, product, slices, folders)
    written = (
        map_blocks(spark, len(tiles.files), product.pack, PACKED)
        .select(F.explode(F.sequence(first, first + count - 1)).alias("tile"), "block", "entries")
        .repartitionById(len(tiles), "tile")
        .sortWithinPartitions("block")
        .mapInArrow(write, WRITTEN)
        .collect()
    )
    rows, num_bytes = (sum(row[name] for row in written) for name in ("rows", "bytes"))
    if not rows:
        for folder in folders:
            write_part_file(folder, "part-00000", FEATURES.empty_table())
    return rows, num_bytes


def _write_tile(
    product: Propagation,
    slices: tuple[VectorTable | None, ...],
    folders: tuple[str, ...],
    batches: Batches,
) -> Batches:
    """Sum the entries of a task, which all belong to one tile, and write its rows."""
    entries = (row for batch in batches for row in batch.to_pylist())
    if (head := next(entries, None)) is None:
        return
    span, number = divmod(head["tile"], len(slices))
    rows = chain([head], entries)
    pieces = ((row["block"], unpack(row["entries"])) for row in rows)
    tiles = product.tiles
    items, sums, num_bytes = product.sums(tiles.items_of(span), slices[number], pieces)
    num_rows = 0
    for file in tiles.files_of(span):
        here = slice(*np.searchsorted(items, tiles.files[file]))
        connected, part = product.normalized(items[here], sums[here])
        write_part_file(folders[number], f"part-{file:05d}", vector_rows(connected, part))
        num_rows += len(connected)
    yield pa.RecordBatch.from_pydict({"rows": [num_rows], "bytes": [num_bytes]})


def _write_slices(spark: SparkSession, product: Propagation, folders: list[str]) -> int:
    """Write slice s of E to `folders[s]`, and return the bytes of E."""
    blocks = list(block_ranges(product.num_items, product.block_size))

    def write(number: int) -> Batches:
        items, vectors = product.features.read(*blocks[number])
        for folder, (first, last) in zip(folders, product.tiles.slices, strict=True):
            rows = vector_rows(items, vectors[:, first:last])
            write_part_file(folder, f"part-{number:05d}", rows)
        yield pa.RecordBatch.from_pydict({"bytes": [vectors.nbytes]})

    written = map_blocks(spark, len(blocks), write, "bytes long").collect()
    return sum(row["bytes"] for row in written)


def _open_slices(tiles: Tiles, folders: list[str]) -> tuple[VectorTable, ...]:
    return tuple(
        VectorTable(ItemTable.uncommitted(folder, FEATURES), last - first)
        for folder, (first, last) in zip(folders, tiles.slices, strict=True)
    )


def _join_slices(
    spark: SparkSession, tiles: Tiles, slices: tuple[VectorTable, ...], version: str
) -> int:
    """Write the rows of all slices side by side, and return their number."""

    def write(file: int) -> Batches:
        parts = [part.read(*tiles.files[file]) for part in slices]
        rows = vector_rows(parts[0][0], np.hstack([vectors for _, vectors in parts]))
        write_part_file(version, f"part-{file:05d}", rows)
        yield pa.RecordBatch.from_pydict({"rows": [rows.num_rows]})

    written = map_blocks(spark, len(tiles.files), write, "rows long").collect()
    return sum(row.rows for row in written)


def _positions(items: Ints, first: int, last: int) -> Ints:
    """Return the position in `items` of every number of [first, last), -1 if it is not there."""
    found: Ints = np.full(last - first, -1, np.int64)
    found[items - first] = np.arange(len(items))
    return found
