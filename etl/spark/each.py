"""Numbered pieces of work over Spark's tasks: ranges of items, cells."""

from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

Work = Callable[[int], Iterator[pa.RecordBatch]]


def each(
    spark: SparkSession, count: int, work: Work, schema: str, most_tasks: int | None = None
) -> DataFrame:
    """The rows of work(0), work(1), ... work(count - 1); a task takes consecutive ones, so what it
    reads in order is read once.
    """
    tasks = count if most_tasks is None else min(most_tasks, count)
    spread = spark.range(0, count, numPartitions=tasks)
    return spread.mapInArrow(partial(_work_through, work), schema)


def _work_through(work: Work, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column("id").to_pylist():
            yield from work(number)
