"""Interest centres: k-means on a modality's raw vectors (Eq. 10).      n items, d width, k centres.

k-means runs on a sample on the driver, for every k asked; one pass over all vectors assigns each to
its nearest centroid of every k, in blocks of a fixed size. A centre without members takes the
vector that lies farthest from its own.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.graph.flat_search import kmeans
from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.vector_table import Vectors, VectorTable
from mdsrec.arrays import Ints
from mdsrec.schema import CENTROIDS

Matrix = npt.NDArray[np.float64]
Far = tuple[int, int, float]  # item, its center, the squared distance

ITERATIONS = 25
SAMPLE_PER_CENTER = 1024


def trained(sample: Vectors, k: int) -> Vectors:
    """Centroids [k, d]; k <= rows of the sample."""
    return kmeans(sample, k, ITERATIONS)


def assigned(
    spark: SparkSession,
    vectors: VectorTable,
    centroids: Mapping[int, Vectors],
    num_items: int,
    num_tasks: int,
) -> DataFrame:
    """DataFrame(item, center_K, distance_K, ... for each k)."""
    blocks = list(block_ranges(num_items, block_size(vectors.width)))
    columns = "".join(f", center_{k} int, distance_{k} double" for k in centroids)
    assign = partial(_assign_block, vectors, blocks, centroids)
    return map_blocks(spark, len(blocks), assign, "item int" + columns, num_tasks)


def nearest_centroids(vectors: Vectors, centroids: Vectors) -> tuple[Ints, Matrix]:
    """The nearest centroid of each vector, the lower one on a tie, and the squared distance."""
    x, C = vectors.astype(np.float64), centroids.astype(np.float64)
    squared = (x * x).sum(1)[:, None] - 2 * x @ C.T + (C * C).sum(1)
    center = squared.argmin(1)
    return center, np.maximum(squared[np.arange(len(x)), center], 0)


def sizes(rows: DataFrame, k: int) -> Ints:
    """Members of each of the k centres."""
    found = np.zeros(k, np.int64)
    for row in rows.groupBy(f"center_{k}").count().collect():
        found[row[0]] = row["count"]
    return found


def farthest(rows: DataFrame, k: int) -> list[Far]:
    """The 2k items that lie farthest from their centre: enough to fill any k - 1 empty ones."""
    columns = ("item", f"center_{k}", f"distance_{k}")
    order = (F.col(f"distance_{k}").desc(), F.col("item"))
    return [tuple(row) for row in rows.select(*columns).orderBy(*order).limit(2 * k).collect()]


def moves_to_empty(sizes: Ints, candidates: list[Far]) -> dict[int, int]:
    """{item: the empty centre it goes to}: the farthest first, out of centres that keep another."""
    left, remaining, moves = sizes.copy(), list(candidates), {}
    for empty in np.flatnonzero(sizes == 0):
        far = next(candidate for candidate in remaining if left[candidate[1]] > 1)
        remaining.remove(far)
        left[far[1]] -= 1
        left[empty] = 1
        moves[far[0]] = int(empty)
    return moves


def members(rows: DataFrame, k: int, moves: Mapping[int, int]) -> DataFrame:
    """DataFrame(item, center)."""
    center = F.col(f"center_{k}")
    for item, empty in moves.items():
        center = F.when(F.col("item") == item, empty).otherwise(center)
    return rows.select("item", center.alias("center"))


def centroid_rows(centroids: Vectors) -> pa.RecordBatch:
    columns = [
        pa.array(np.arange(len(centroids), dtype=np.int32)),
        pa.array(list(centroids), pa.list_(pa.float32())),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=CENTROIDS)


def _assign_block(
    vectors: VectorTable,
    blocks: list[tuple[int, int]],
    centroids: Mapping[int, Vectors],
    number: int,
) -> Iterator[pa.RecordBatch]:
    items, rows = vectors.read(*blocks[number])
    columns = {"item": pa.array(items.astype(np.int32))}
    for k, C in centroids.items():
        center, distance = nearest_centroids(rows, C)
        columns[f"center_{k}"] = pa.array(center.astype(np.int32))
        columns[f"distance_{k}"] = pa.array(distance)
    yield pa.RecordBatch.from_pydict(columns)
