"""Dense ids and one row per user, split by leave-one-out."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from etl.interactions import POSITION

ROW_BITS = 33  # monotonically_increasing_id = partition << 33 | row in the partition


def dense_ids(values: DataFrame, column: str, name: str) -> DataFrame:
    """DataFrame(column, name): each distinct value's rank in binary order, the same for any
    partitioning.

    A range sort, then each partition's offset from the counts: only one number a partition reaches
    the driver.
    """
    ordered = values.select(column).distinct().orderBy(column).localCheckpoint()
    counts = {
        row.partition: row["count"]
        for row in ordered.groupBy(F.spark_partition_id().alias("partition")).count().collect()
    }
    offsets = [sum(counts.get(p, 0) for p in range(end)) for end in range(max(counts) + 1)]
    offset = F.lit(offsets)[F.spark_partition_id()]
    row_in_partition = F.monotonically_increasing_id().bitwiseAND((1 << ROW_BITS) - 1)
    return ordered.select(column, (offset + row_in_partition).alias(name)).localCheckpoint()


def sequences(events: DataFrame, catalogue: DataFrame) -> DataFrame:
    """One row per user in time order, ties by (file, line); `catalogue` is (asin, item)."""
    users = dense_ids(events, "user_id", "user")
    return (
        events.join(catalogue, "asin")
        .groupBy("user_id")
        .agg(F.sort_array(F.collect_list(F.struct(*POSITION, "item"))).alias("events"))
        .join(users, "user_id")
        .select(
            "user",
            "user_id",
            F.col("events.item").alias("items"),
            F.col("events.time").alias("times"),
            _end("events", 2).alias("train_end"),
            _end("events", 1).alias("valid_end"),
        )
    )


def _end(events: str, held_out: int) -> Column:
    """Leave-one-out: all but the last `held_out` events; all of a user with fewer than 3."""
    length = F.size(events)
    return F.when(length < 3, length).otherwise(length - held_out)


def training_events(sequence_rows: DataFrame) -> DataFrame:
    """DataFrame(items): the training part of each sequence. Nothing derived may see more than
    this.
    """
    return sequence_rows.select(F.slice("items", F.lit(1), F.col("train_end")).alias("items"))


def split_counters(sequence_rows: DataFrame) -> dict[str, int]:
    """Events by split, prefixes to train on, and the longest sequence."""
    length = F.size("items")
    row = sequence_rows.agg(
        F.sum("train_end").alias("train"),
        F.sum(F.col("valid_end") - F.col("train_end")).alias("valid"),
        F.sum(length - F.col("valid_end")).alias("test"),
        F.sum(F.greatest(F.col("train_end") - 1, F.lit(0))).alias("prefixes"),
        F.max(length).alias("longest"),
    ).first()
    assert row is not None
    return {key: int(value) for key, value in row.asDict().items()}
