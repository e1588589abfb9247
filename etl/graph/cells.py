"""Cells: unit vectors grouped by the nearest of many centroids, in files that any task can read.

n items, d width, C cells. The centroids come from k-means on a sample. A cell is stored as one or
more shards, each a file. A shard stores equal vectors once, with all items that have them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from itertools import groupby

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from etl.graph.flat_search import kmeans, nearest_rows
from etl.graph.unit_vectors import UnitVectors
from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.vector_table import Vectors
from mdsrec.arrays import Ints
from mdsrec.files import file_system, read_bytes, write_bytes

ITEMS_PER_CELL = 1024
MANY_CELLS = 4096  # from here on their number grows with the square root of the items
SAMPLE_PER_CELL = 64
ITERATIONS = 10
SPLIT_ABOVE = 4  # times the mean number of sampled vectors in a cell
SPLIT_ROUNDS = 3
SHARD_BYTES = 64 << 20  # of the vectors in one file
ASSIGNED = "cell int, block int, items binary, vectors binary"


@dataclass(frozen=True)
class CellShard:
    """Distinct vectors [u, d]; vector r belongs to items[starts[r] : starts[r + 1]], ascending."""

    vectors: Vectors
    items: Ints
    starts: Ints

    def items_of(self, rows: Ints, limit: int) -> tuple[Ints, Ints]:
        """Return the lowest `limit` items of each row, as (position in `rows`, item)."""
        counts = np.minimum(self.starts[rows + 1] - self.starts[rows], limit)
        position = np.repeat(np.arange(len(rows)), counts)
        nth = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)
        return position, self.items[self.starts[rows][position] + nth]


@dataclass(frozen=True)
class Cells:
    """The files of all cells; small enough to be sent to every task."""

    folder: str
    centroids: Vectors  # [C, d]
    num_shards: tuple[int, ...]  # of each cell

    def __len__(self) -> int:
        return len(self.centroids)

    def shard(self, cell: int, number: int) -> CellShard:
        return _open_shard(_shard_uri(self.folder, cell, number), self.centroids.shape[1])

    def shards(self, cell: int) -> Iterator[CellShard]:
        for number in range(self.num_shards[cell]):
            yield self.shard(cell, number)


def target_num_cells(num_vectors: int) -> int:
    """Return how many cells to train for a number of vectors.

    An item is compared with all centroids, and with the items of a few cells. Beyond MANY_CELLS
    both numbers grow alike, because this keeps their sum smallest.
    """
    if num_vectors < MANY_CELLS * ITEMS_PER_CELL:
        return max(1, num_vectors // ITEMS_PER_CELL)
    return int(MANY_CELLS * math.sqrt(num_vectors / (MANY_CELLS * ITEMS_PER_CELL)))


def train_centroids(sample: Vectors, num_cells: int) -> Vectors:
    """Return about `num_cells` centroids of length 1.

    k-means leaves some cells much larger than others; these are split again.
    """
    centroids = kmeans(sample, min(num_cells, len(sample)), ITERATIONS, spherical=True)
    for _ in range(SPLIT_ROUNDS if num_cells > 1 else 0):
        home = nearest_rows(sample, centroids, 1)[1][:, 0]
        sizes = np.bincount(home, minlength=len(centroids))
        mean = len(sample) / num_cells
        large = np.flatnonzero(sizes > SPLIT_ABOVE * mean)
        parts = [
            kmeans(
                sample[home == cell],
                min(int(sizes[cell] // mean), int(sizes[cell])),
                ITERATIONS,
                spherical=True,
            )
            for cell in large
        ]
        centroids = np.concatenate([np.delete(centroids, large, axis=0), *parts])
    return centroids


def write_cells(
    spark: SparkSession,
    vectors: UnitVectors,
    num_items: int,
    centroids: Vectors,
    folder: str,
    num_tasks: int,
) -> Cells:
    """Write the vectors of all items below `folder`, each into the cell of its nearest centroid."""
    blocks = list(block_ranges(num_items, block_size(vectors.width)))
    assign = partial(_assign_block, vectors, blocks, centroids)
    tasks = min(num_tasks, len(centroids))
    written = (
        map_blocks(spark, len(blocks), assign, ASSIGNED, num_tasks)
        .repartitionById(tasks, F.col("cell") % tasks)
        .sortWithinPartitions("cell", "block")
        .mapInArrow(partial(_write_shards, folder, vectors.width), "cell int, shards int")
    )
    shards = {row.cell: row.shards for row in written.collect()}
    return Cells(folder, centroids, tuple(shards.get(c, 0) for c in range(len(centroids))))


def _assign_block(
    vectors: UnitVectors, blocks: list[tuple[int, int]], centroids: Vectors, number: int
) -> Iterator[pa.RecordBatch]:
    """Yield one row for each cell that has items of the block."""
    items, rows = vectors.read(*blocks[number])
    home = nearest_rows(rows, centroids, 1)[1][:, 0]
    order = np.argsort(home, kind="stable")
    cells, starts = np.unique(home[order], return_index=True)
    parts = np.split(order, starts[1:]) if len(cells) else []
    columns = [
        pa.array(cells.astype(np.int32)),
        pa.array([number] * len(cells), pa.int32()),
        pa.array([items[part].tobytes() for part in parts], pa.binary()),
        pa.array([rows[part].tobytes() for part in parts], pa.binary()),
    ]
    yield pa.RecordBatch.from_arrays(columns, ["cell", "block", "items", "vectors"])


def _write_shards(
    folder: str, width: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Write the shards of a task's cells; rows are sorted by cell."""
    rows = (row for batch in batches for row in batch.to_pylist())
    for cell, parts in groupby(rows, key=lambda row: int(row["cell"])):
        number = -1
        for number, shard in enumerate(_shards(parts, width)):
            write_bytes(_shard_uri(folder, cell, number), _serialize(shard))
        yield pa.RecordBatch.from_pydict(
            {"cell": pa.array([cell], pa.int32()), "shards": pa.array([number + 1], pa.int32())}
        )


def _shards(parts: Iterator[dict[str, bytes]], width: int) -> Iterator[CellShard]:
    """Yield the vectors of a cell in order, a shard whenever SHARD_BYTES are reached."""
    collected: list[tuple[Ints, Vectors]] = []
    for part in parts:
        items = np.frombuffer(part["items"], np.int64)
        collected.append((items, np.frombuffer(part["vectors"], np.float32).reshape(-1, width)))
        if sum(vectors.nbytes for _, vectors in collected) >= SHARD_BYTES:
            yield _deduplicate(collected)
            collected = []
    if collected:
        yield _deduplicate(collected)


def _deduplicate(parts: list[tuple[Ints, Vectors]]) -> CellShard:
    """Return the distinct vectors in order of their lowest item."""
    items, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    as_bytes = np.ascontiguousarray(vectors).view(f"V{4 * vectors.shape[1]}")[:, 0]
    _, first, group = np.unique(as_bytes, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[group]
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(len(first) + 1))
    return CellShard(vectors[np.sort(first)], items[order], starts)


def _shard_uri(folder: str, cell: int, number: int) -> str:
    return f"{folder}/{cell:05d}-{number:03d}.arrow"


def _serialize(shard: CellShard) -> bytes:
    """Return an Arrow file that can be mapped into memory without conversion."""
    width = shard.vectors.shape[1]
    flat = pa.py_buffer(np.ascontiguousarray(shard.vectors))
    vectors = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(4 * width), len(shard.vectors), [None, flat]
    )
    items = pa.LargeListArray.from_arrays(pa.array(shard.starts), pa.array(shard.items))
    table = pa.table({"vector": vectors, "items": items})
    stream = BytesIO()
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


@lru_cache(maxsize=32)
def _open_shard(uri: str, width: int) -> CellShard:
    filesystem, path = file_system(uri)
    is_local = filesystem.type_name == "local"
    source = pa.memory_map(path) if is_local else pa.BufferReader(read_bytes(uri) or b"")
    batch = pa.ipc.open_file(source).get_batch(0)
    vectors = np.frombuffer(batch.column("vector").buffers()[1], np.float32)
    lists = batch.column("items")
    items, starts = lists.values.to_numpy(), lists.offsets.to_numpy()
    return CellShard(vectors[: batch.num_rows * width].reshape(-1, width), items, starts)
