"""The order of all items by the leaves of a tree: one pass over their vectors."""

from collections.abc import Iterator
from functools import partial
from itertools import accumulate

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from etl.places.bisection import Tree
from etl.places.joint_vectors import JointVectors
from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.rows import frame_of_rows

LOCATED = "item int, leaf int, position float"
FIRST_PLACES = pa.schema({"leaf": pa.int32(), "first": pa.int32()})


def locate_items(
    spark: SparkSession, vectors: JointVectors, tree: Tree, num_items: int, num_tasks: int
) -> DataFrame:
    """Return DataFrame(item, leaf, position) of all items.

    Items without any vector are in a leaf of their own, the last one.
    """
    widest = max(part.width for part in vectors.parts)  # whose row groups a block reads whole
    blocks = list(block_ranges(num_items, block_size(widest)))
    locate = partial(_locate_block, vectors, tree, blocks)
    return map_blocks(spark, len(blocks), locate, LOCATED, num_tasks)


def number_places(located: DataFrame) -> DataFrame:
    """Return DataFrame(item, place): items by leaf, then by position, then by item.

    `located` is read twice, so it should be materialized.
    """
    sizes = sorted((row["leaf"], row["count"]) for row in located.groupBy("leaf").count().collect())
    starts = accumulate((size for _, size in sizes), initial=0)
    first_places = [
        {"leaf": leaf, "first": start} for (leaf, _), start in zip(sizes, starts, strict=False)
    ]
    leaves = frame_of_rows(located.sparkSession, first_places, FIRST_PLACES)
    inside = F.row_number().over(Window.partitionBy("leaf").orderBy("position", "item")) - 1
    numbered = located.join(F.broadcast(leaves), "leaf")
    return numbered.select("item", (F.col("first") + inside).alias("place"))


def _locate_block(
    vectors: JointVectors, tree: Tree, blocks: list[tuple[int, int]], number: int
) -> Iterator[pa.RecordBatch]:
    first, last = blocks[number]
    items, rows = vectors.read(first, last)
    leaves = np.full(last - first, tree.num_leaves, np.int32)
    positions = np.zeros(last - first, np.float32)
    leaves[items - first], positions[items - first] = tree.locate(rows)
    columns = [np.arange(first, last, dtype=np.int32), leaves, positions]
    yield pa.RecordBatch.from_arrays(list(map(pa.array, columns)), ["item", "leaf", "position"])
