"""Fixed ranges of ids as units of work: the same batches, so the same bits, whichever task
computes them.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def in_blocks(rows: DataFrame, size: int, num_ids: int, num_tasks: int) -> DataFrame:
    """DataFrame(block, rows): the rows of item ids [block * size, (block + 1) * size), sorted by
    item.

    Blocks go to tasks in turn, which evens out the work of neighbouring ranges.
    """
    tasks = max(1, min(num_tasks, -(-num_ids // size)))
    return (
        rows.withColumn("block", F.floor(F.col("item") / F.lit(size)))
        .groupBy("block")
        .agg(F.sort_array(F.collect_list(F.struct("item", *_others(rows)))).alias("rows"))
        .repartitionById(tasks, (F.col("block") % tasks).cast("int"))
    )


def _others(rows: DataFrame) -> list[str]:
    return [column for column in rows.columns if column != "item"]
