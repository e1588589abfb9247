"""Vectors that lie in files, in blocks that a task reads. What passes through Spark is the place of
each vector; the vectors themselves pass once, packed, on their way into the table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.spark.parts import write_part
from etl.spark.session import materialized
from etl.spark.spans import Ints, Vectors, vector_rows
from mdsrec.errors import InputError

FILE_BYTES = 64 << 20  # of the vectors in one file of the table: a task holds them to write it
SURVEY = "label binary, block int, row int, width int, finite boolean, zero boolean"
PACKED = "item int, vector binary"


@dataclass(frozen=True)
class Piece:
    """Some vectors as they follow one another in a block; their widths may differ."""

    labels: pa.Array  # binary: what the file calls each of them; null = nothing
    offsets: Ints  # vector r is values[offsets[r] : offsets[r + 1]]
    values: Vectors

    @classmethod
    def of_matrix(cls, labels: pa.Array, matrix: npt.NDArray[Any]) -> "Piece":
        with np.errstate(over="ignore"):  # what float32 cannot hold is an infinity, and refused
            values = np.ascontiguousarray(matrix, np.float32).reshape(-1)
        return cls(labels, np.arange(len(matrix) + 1) * matrix.shape[1], values)

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, flags: npt.NDArray[np.bool_]) -> Ints:
        """How many values of each vector are flagged."""
        total = np.concatenate([[0], np.cumsum(flags)])
        return np.asarray(total[self.offsets[1:]] - total[self.offsets[:-1]])


class Source(Protocol):
    """Blocks 0, 1, ... of vectors; it travels to the tasks."""

    def __len__(self) -> int: ...

    def pieces(self, block: int) -> Iterator[Piece]: ...


@dataclass(frozen=True)
class Placed:
    """Where the vector of each item lies."""

    source: Source
    places: DataFrame  # item, block, row
    width: int
    counters: Mapping[str, int]  # what was used and what was not, and why


def surveyed(spark: SparkSession, source: Source, num_tasks: int, first: int = 0) -> DataFrame:
    """DataFrame(label, block, row, width, finite, zero): every vector of the blocks from `first`
    on; `row` counts within the block.
    """
    blocks = len(source) - first
    spread = spark.range(first, len(source), numPartitions=max(1, min(num_tasks, blocks)))
    return materialized(spread.mapInArrow(partial(_survey, source), SURVEY))


def write_vectors(placed: Placed, cut: tuple[Column, int], version: str, num_tasks: int) -> int:
    """The vectors of `placed` by item as the parts of a new version of a table -> their number."""
    part, num_files = cut
    tasks = max(1, min(num_tasks, len(placed.source)))
    written = (
        placed.places.repartitionById(tasks, F.col("block") % tasks)
        .sortWithinPartitions("block", "row")
        .mapInArrow(partial(_take, placed.source, placed.width), PACKED)
        .withColumn("part", part.cast("int"))
        .repartitionById(num_files, F.col("part"))
        .sortWithinPartitions("item")
        .mapInArrow(partial(_write, version, placed.width), "rows long")
    )
    return sum(row.rows for row in written.collect())


def _survey(source: Source, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for block in batch.column("id").to_pylist():
            first = 0
            for piece in source.pieces(block):
                last = first + len(piece)
                columns = [
                    piece.labels,
                    pa.array(np.full(len(piece), block, np.int32)),
                    pa.array(np.arange(first, last, dtype=np.int32)),
                    pa.array(np.diff(piece.offsets).astype(np.int32)),
                    pa.array(piece.count(~np.isfinite(piece.values)) == 0),
                    pa.array(piece.count(piece.values != 0) == 0),
                ]
                names = ["label", "block", "row", "width", "finite", "zero"]
                yield pa.RecordBatch.from_arrays(columns, names)
                first = last


def _take(
    source: Source, width: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Places come by (block, row): a block is read once."""
    for block, parts in groupby(_by_block(batches), key=lambda part: part[0]):
        _, items, rows = (np.hstack(column) for column in zip(*parts, strict=True))
        first = 0
        for piece in source.pieces(block):
            start, stop = np.searchsorted(rows, [first, first + len(piece)])
            if start < stop:
                matrix = piece.values.reshape(len(piece), width)
                yield _packed(items[start:stop], matrix[rows[start:stop] - first])
            first += len(piece)
        if rows[-1] >= first:
            raise InputError("a file of vectors changed while it was read: run it again")


def _by_block(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, Ints, Ints]]:
    """(block, items, rows) of every run of one block in a batch."""
    for batch in batches:
        block, item, row = (batch.column(c).to_numpy() for c in ("block", "item", "row"))
        starts = np.flatnonzero(np.diff(block, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(block)], strict=True):
            yield int(block[start]), item[start:stop], row[start:stop]


def _packed(items: Ints, vectors: Vectors) -> pa.RecordBatch:
    size = 4 * vectors.shape[1]
    offsets = np.arange(len(items) + 1, dtype=np.int32) * np.int32(size)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(vectors))]
    packed = pa.Array.from_buffers(pa.binary(), len(items), buffers)
    return pa.RecordBatch.from_arrays([pa.array(items, pa.int32()), packed], ["item", "vector"])


def _write(version: str, width: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """All rows of a task belong to one file."""
    held = [batch for batch in batches if batch.num_rows]
    if not held:
        return
    items = np.concatenate([batch.column("item").to_numpy() for batch in held])
    packed = b"".join(v for batch in held for v in batch.column("vector").to_pylist())
    vectors = np.frombuffer(packed, np.float32).reshape(-1, width)
    number = held[0].column("part")[0].as_py()
    write_part(version, f"part-{number:05d}", vector_rows(items, vectors))
    yield pa.RecordBatch.from_pydict({"rows": [len(items)]})
