"""Cells: unit vectors parted by the nearest of many centroids, in files that any task can open.

n items, d width, C cells. The centroids come from k-means on a sample. Equal vectors lie in a shard
once, with the items that share them; a large cell is several shards, each a file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from itertools import groupby

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from etl.graph.flat_search import kmeans, nearest
from etl.graph.unit_vectors import UnitVectors
from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.vector_table import Vectors
from mdsrec.arrays import Ints
from mdsrec.files import file_system, read_bytes, write_bytes

ITEMS_PER_CELL = 1024
MOST_CELLS = 4096
SAMPLE_PER_CELL = 64
ITERATIONS = 10
SPLIT_ABOVE = 4  # times the mean of a cell's sample
SPLITS = 3
SHARD_BYTES = 64 << 20  # of the vectors in one file
ASSIGNED = "cell int, block int, items binary, vectors binary"


@dataclass(frozen=True)
class Shard:
    """Distinct vectors [u, d]; vector r belongs to items[starts[r] : starts[r + 1]], ascending."""

    vectors: Vectors
    items: Ints
    starts: Ints

    def items_of(self, rows: Ints, most: int) -> tuple[Ints, Ints]:
        """(place in `rows`, item) for the lowest `most` items of each row."""
        counts = np.minimum(self.starts[rows + 1] - self.starts[rows], most)
        place = np.repeat(np.arange(len(rows)), counts)
        nth = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, self.items[self.starts[rows][place] + nth]


@dataclass(frozen=True)
class Cells:
    """Where the vectors of each cell lie."""

    folder: str
    centroids: Vectors  # [C, d]
    num_shards: tuple[int, ...]  # of each cell

    def __len__(self) -> int:
        return len(self.centroids)

    def shard(self, cell: int, number: int) -> Shard:
        return _open_shard(_shard_uri(self.folder, cell, number), self.centroids.shape[1])

    def shards(self, cell: int) -> Iterator[Shard]:
        for number in range(self.num_shards[cell]):
            yield self.shard(cell, number)


def wanted_cells(num_vectors: int) -> int:
    return max(1, min(MOST_CELLS, num_vectors // ITEMS_PER_CELL))


def trained(sample: Vectors, wanted: int) -> Vectors:
    """About `wanted` centroids of length 1; a cell that holds much more of the sample than others
    is split again.
    """
    centroids = kmeans(sample, min(wanted, len(sample)), ITERATIONS, spherical=True)
    for _ in range(SPLITS if wanted > 1 else 0):
        home = nearest(sample, centroids, 1)[1][:, 0]
        sizes = np.bincount(home, minlength=len(centroids))
        mean = len(sample) / wanted
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


def filed(
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
        .mapInArrow(partial(_write_cells, folder, vectors.width), "cell int, shards int")
    )
    shards = {row.cell: row.shards for row in written.collect()}
    return Cells(folder, centroids, tuple(shards.get(c, 0) for c in range(len(centroids))))


def _assign_block(
    vectors: UnitVectors, blocks: list[tuple[int, int]], centroids: Vectors, number: int
) -> Iterator[pa.RecordBatch]:
    """One row for each cell that a block has items in."""
    items, rows = vectors.read(*blocks[number])
    home = nearest(rows, centroids, 1)[1][:, 0]
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


def _write_cells(
    folder: str, width: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Rows come by cell: it is whole when the next one begins."""
    rows = (row for batch in batches for row in batch.to_pylist())
    for cell, parts in groupby(rows, key=lambda row: int(row["cell"])):
        number = -1
        for number, shard in enumerate(_shards(parts, width)):
            write_bytes(_shard_uri(folder, cell, number), _serialized(shard))
        yield pa.RecordBatch.from_pydict(
            {"cell": pa.array([cell], pa.int32()), "shards": pa.array([number + 1], pa.int32())}
        )


def _shards(parts: Iterator[dict[str, bytes]], width: int) -> Iterator[Shard]:
    """The rows of a cell in order, cut where SHARD_BYTES are full."""
    held: list[tuple[Ints, Vectors]] = []
    for part in parts:
        items = np.frombuffer(part["items"], np.int64)
        held.append((items, np.frombuffer(part["vectors"], np.float32).reshape(-1, width)))
        if sum(vectors.nbytes for _, vectors in held) >= SHARD_BYTES:
            yield _distinct(held)
            held = []
    if held:
        yield _distinct(held)


def _distinct(parts: list[tuple[Ints, Vectors]]) -> Shard:
    """Equal vectors once, in order of the lowest item."""
    items, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    as_bytes = np.ascontiguousarray(vectors).view(f"V{4 * vectors.shape[1]}")[:, 0]
    _, first, group = np.unique(as_bytes, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[group]
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(len(first) + 1))
    return Shard(vectors[np.sort(first)], items[order], starts)


def _shard_uri(folder: str, cell: int, number: int) -> str:
    return f"{folder}/{cell:05d}-{number:03d}.arrow"


def _serialized(shard: Shard) -> bytes:
    """An Arrow file that maps into memory as it lies."""
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
def _open_shard(uri: str, width: int) -> Shard:
    filesystem, path = file_system(uri)
    local = filesystem.type_name == "local"
    source = pa.memory_map(path) if local else pa.BufferReader(read_bytes(uri) or b"")
    batch = pa.ipc.open_file(source).get_batch(0)
    vectors = np.frombuffer(batch.column("vector").buffers()[1], np.float32)
    lists = batch.column("items")
    items, starts = lists.values.to_numpy(), lists.offsets.to_numpy()
    return Shard(vectors[: batch.num_rows * width].reshape(-1, width), items, starts)
