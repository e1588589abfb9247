"""Files of vectors, read by tasks in blocks.

Spark first handles only the location of each vector: a block, and a row in it. The vectors pass
through Spark once, as bytes, on their way into the table.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.spark.blocks import block_ranges
from etl.spark.part_files import write_part_file
from etl.spark.session import materialize
from etl.spark.table_io import FileLayout
from etl.spark.vector_table import Vectors, vector_rows
from mdsrec.arrays import Ints
from mdsrec.errors import InputError

FILE_BYTES = 64 << 20  # of the vectors in one file of the table; a task holds a file in memory
DIGEST_BYTES = 16
BATCH_BYTES = 64 << 20  # of the vectors that go through Spark as one batch: it counts in 31 bits
INSPECTED = (
    "label binary, block int, row long, width long, finite boolean, zero boolean, digest binary"
)
PACKED = "item int, vector binary"


@dataclass(frozen=True)
class VectorBatch:
    """Consecutive vectors of a block, which may differ in width."""

    labels: pa.Array  # binary: the name of each vector in its file; null if it has none
    offsets: Ints  # vector r is values[offsets[r] : offsets[r + 1]]
    values: Vectors

    @classmethod
    def of_matrix(cls, labels: pa.Array, matrix: npt.NDArray[Any]) -> "VectorBatch":
        with np.errstate(over="ignore"):  # overflow gives an infinity, which is refused later
            values = np.ascontiguousarray(matrix, np.float32).reshape(-1)
        return cls(labels, np.arange(len(matrix) + 1) * matrix.shape[1], values)

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, flags: npt.NDArray[np.bool_]) -> Ints:
        """Return for each vector how many of its values are flagged."""
        total = np.concatenate([[0], np.cumsum(flags)])
        return np.asarray(total[self.offsets[1:]] - total[self.offsets[:-1]])

    def matrix(self, rows: Ints, width: int) -> Vectors:
        """Return the vectors [n, width] of n rows that have this width; others may be empty."""
        if len(self.values) == len(self) * width:
            return np.asarray(self.values.reshape(-1, width)[rows])
        return np.asarray(self.values[self.offsets[rows][:, None] + np.arange(width)])

    def digests(self) -> list[bytes]:
        """Return a hash of each vector's bytes; equal vectors have the same."""
        content = self.values.view(np.uint8).data
        return [
            hashlib.blake2b(content[start:stop], digest_size=DIGEST_BYTES).digest()
            for start, stop in pairwise((4 * self.offsets).tolist())
        ]


class VectorSource(Protocol):
    """Vectors in numbered blocks; Spark sends it to the tasks."""

    def __len__(self) -> int:
        """Return the number of blocks."""
        ...

    def batches(self, block: int) -> Iterator[VectorBatch]: ...


@dataclass(frozen=True)
class VectorLocations:
    """The location of each item's vector, and counters for the manifest."""

    source: VectorSource
    locations: DataFrame  # item, block, row
    width: int
    counters: Mapping[str, int]  # vectors used, and not used by reason


def inspect_vectors(
    spark: SparkSession, source: VectorSource, num_tasks: int, first: int = 0
) -> DataFrame:
    """Read the blocks from `first` on -> DataFrame of INSPECTED.

    `row` counts within the block; `zero` is true if all values are; equal vectors have the same
    `digest`.
    """
    blocks = len(source) - first
    numbers = spark.range(first, len(source), numPartitions=max(1, min(num_tasks, blocks)))
    return materialize(numbers.mapInArrow(partial(_inspect_blocks, source), INSPECTED))


def write_vectors(
    vectors: VectorLocations, layout: FileLayout, version: str, num_tasks: int
) -> int:
    """Write the vectors as the files of a new version of a table, and return their number."""
    tasks = max(1, min(num_tasks, len(vectors.source)))
    written = (
        vectors.locations.repartitionById(tasks, F.col("block") % tasks)
        .sortWithinPartitions("block", "row")
        .mapInArrow(partial(_read_vectors, vectors.source, vectors.width), PACKED)
        .withColumn("part", layout.file_number.cast("int"))
        .repartitionById(layout.num_files, F.col("part"))
        .sortWithinPartitions("item")
        .mapInArrow(partial(_write_file, version, vectors.width), "rows long")
    )
    return sum(row.rows for row in written.collect())


def _inspect_blocks(
    source: VectorSource, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for block in batch.column("id").to_pylist():
            first = 0
            for vectors in source.batches(block):
                last = first + len(vectors)
                columns = [
                    vectors.labels,
                    pa.array(np.full(len(vectors), block, np.int32)),
                    pa.array(np.arange(first, last)),
                    pa.array(np.diff(vectors.offsets)),
                    pa.array(vectors.count(~np.isfinite(vectors.values)) == 0),
                    pa.array(vectors.count(vectors.values != 0) == 0),
                    pa.array(vectors.digests(), pa.binary()),
                ]
                names = ["label", "block", "row", "width", "finite", "zero", "digest"]
                yield pa.RecordBatch.from_arrays(columns, names)
                first = last


def _read_vectors(
    source: VectorSource, width: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Read the vectors at locations that are sorted by (block, row), each block once."""
    for block, parts in groupby(_by_block(batches), key=lambda part: part[0]):
        _, items, rows = (np.hstack(column) for column in zip(*parts, strict=True))
        first = 0
        for vectors in source.batches(block):
            start, stop = np.searchsorted(rows, [first, first + len(vectors)])
            if start < stop:
                matrix = vectors.matrix(rows[start:stop] - first, width)
                yield from _pack(items[start:stop], matrix)
            first += len(vectors)
        if rows[-1] >= first:
            raise InputError("a file of vectors changed while it was read: run again")


def _by_block(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, Ints, Ints]]:
    """Yield (block, items, rows) of every run of one block within a batch."""
    for batch in batches:
        block, item, row = (batch.column(c).to_numpy() for c in ("block", "item", "row"))
        starts = np.flatnonzero(np.diff(block, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(block)], strict=True):
            yield int(block[start]), item[start:stop], row[start:stop]


def _pack(items: Ints, vectors: Vectors) -> Iterator[pa.RecordBatch]:
    """Yield PACKED rows, each vector as its bytes."""
    size = 4 * vectors.shape[1]
    for first, last in block_ranges(len(items), max(1, BATCH_BYTES // size)):
        offsets = np.arange(last - first + 1, dtype=np.int32) * np.int32(size)
        content = np.ascontiguousarray(vectors[first:last])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
        packed = pa.Array.from_buffers(pa.binary(), last - first, buffers)
        columns = [pa.array(items[first:last], pa.int32()), packed]
        yield pa.RecordBatch.from_arrays(columns, ["item", "vector"])


def _write_file(
    version: str, width: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Write the rows of a task, which all belong to one file."""
    filled = [batch for batch in batches if batch.num_rows]
    if not filled:
        return
    items = np.concatenate([batch.column("item").to_numpy() for batch in filled])
    packed = b"".join(v for batch in filled for v in batch.column("vector").to_pylist())
    vectors = np.frombuffer(packed, np.float32).reshape(-1, width)
    number = filled[0].column("part")[0].as_py()
    write_part_file(version, f"part-{number:05d}", vector_rows(items, vectors))
    yield pa.RecordBatch.from_pydict({"rows": [len(items)]})
