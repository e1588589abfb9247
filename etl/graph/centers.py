"""Interest centers: k-means on a modality's raw vectors (Eq. 10).      n items, d width, k centers.

For each k, k-means runs on a sample on the driver. Then one pass over all vectors assigns each to
its nearest centroid for every k, in blocks of a fixed size. A center without members takes an item
that is far from its own centroid.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.graph.flat_search import kmeans
from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.vector_table import Vectors, VectorTable
from mdsrec.arrays import Floats, Ints
from mdsrec.schema import CENTROIDS

FarItem = tuple[int, int, float]  # item, its center, squared distance

ITERATIONS = 25
SAMPLE_PER_CENTER = 1024


def train_centroids(sample: Vectors, k: int) -> Vectors:
    """Return centroids [k, d]; the sample must have at least k rows."""
    return kmeans(sample, k, ITERATIONS)


def assign_centers(
    spark: SparkSession,
    vectors: VectorTable,
    centroids: Mapping[int, Vectors],
    num_items: int,
    num_tasks: int,
) -> DataFrame:
    """Return DataFrame(item, center_K, distance_K, ...) with two columns for each k."""
    blocks = list(block_ranges(num_items, block_size(vectors.width)))
    columns = "".join(f", center_{k} int, distance_{k} double" for k in centroids)
    assign = partial(_assign_block, vectors, blocks, centroids)
    return map_blocks(spark, len(blocks), assign, "item int" + columns, num_tasks)


def nearest_centroids(vectors: Vectors, centroids: Vectors) -> tuple[Ints, Floats]:
    """Return the nearest centroid of each vector and the squared distance.

    Of two centroids at the same distance it is the lower one.
    """
    x, C = vectors.astype(np.float64), centroids.astype(np.float64)
    squared = (x * x).sum(1)[:, None] - 2 * x @ C.T + (C * C).sum(1)
    center = squared.argmin(1)
    return center, np.maximum(squared[np.arange(len(x)), center], 0)


def center_sizes(rows: DataFrame, k: int) -> Ints:
    """Return the number of members of each of the k centers."""
    sizes = np.zeros(k, np.int64)
    for row in rows.groupBy(f"center_{k}").count().collect():
        sizes[row[0]] = row["count"]
    return sizes


def farthest_items(rows: DataFrame, k: int) -> list[FarItem]:
    """Return the 2k items farthest from their centers: enough to fill up to k - 1 empty ones."""
    columns = ("item", f"center_{k}", f"distance_{k}")
    order = (F.col(f"distance_{k}").desc(), F.col("item"))
    return [tuple(row) for row in rows.select(*columns).orderBy(*order).limit(2 * k).collect()]


def moves_to_empty(sizes: Ints, candidates: list[FarItem]) -> dict[int, int]:
    """Return {item: empty center it moves to}.

    The farthest items move first, and no center loses its last member.
    """
    left, remaining, moves = sizes.copy(), list(candidates), {}
    for empty in np.flatnonzero(sizes == 0):
        far = next(candidate for candidate in remaining if left[candidate[1]] > 1)
        remaining.remove(far)
        left[far[1]] -= 1
        left[empty] = 1
        moves[far[0]] = int(empty)
    return moves


def final_centers(rows: DataFrame, k: int, moves: Mapping[int, int]) -> DataFrame:
    """Return DataFrame(item, center) after the moves to empty centers."""
    center = F.col(f"center_{k}")
    for item, empty in moves.items():
        center = F.when(F.col("item") == item, empty).otherwise(center)
    return rows.select("item", center.alias("center"))


def centroid_rows(centroids: Vectors) -> pa.RecordBatch:
    """Return the rows of the centroids table."""
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
