"""Work in numbered blocks, such as ranges of items or the cells of a search, spread over tasks."""

from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

BlockFunction = Callable[[int], Iterator[pa.RecordBatch]]

BLOCK_BYTES = 32 << 20  # of float32 vectors that a task holds at a time


def map_blocks(
    spark: SparkSession,
    num_blocks: int,
    function: BlockFunction,
    schema: str,
    max_tasks: int | None = None,
) -> DataFrame:
    """Return the rows of function(0), function(1), ..., function(num_blocks - 1).

    A task takes consecutive blocks, so it reads each row group of a table sorted by item once.
    """
    num_tasks = num_blocks if max_tasks is None else min(max_tasks, num_blocks)
    numbers = spark.range(0, num_blocks, numPartitions=num_tasks)
    return numbers.mapInArrow(partial(_map_numbers, function), schema)


def _map_numbers(
    function: BlockFunction, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column("id").to_pylist():
            yield from function(number)


def block_size(width: int) -> int:
    """Return how many vectors of `width` numbers fill BLOCK_BYTES.

    It is a power of two and depends on nothing else, so blocks are the same for any partitioning.
    """
    return 1 << max(8, (BLOCK_BYTES // (4 * width)).bit_length() - 1)


def block_ranges(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield [0, size), [size, 2 size), ... up to `total`."""
    for first in range(0, total, size):
        yield first, min(first + size, total)
