"""Dense ids and one row per user, cut into training, validation and test events."""

from itertools import accumulate

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.catalogue.interactions import EVENT_ORDER
from etl.catalogue.split import TimeCut, split_ends
from etl.spark.session import materialize

ROW_BITS = 33  # monotonically_increasing_id = partition << 33 | row in the partition


def dense_ids(values: DataFrame, column: str, name: str) -> DataFrame:
    """DataFrame(column, name): each distinct value's rank in binary order, the same for any
    partitioning.

    A range sort, then each partition's offset from the counts: only one number a partition reaches
    the driver.
    """
    ordered = materialize(values.select(column).distinct().orderBy(column))
    counts = {
        row.partition: row["count"]
        for row in ordered.groupBy(F.spark_partition_id().alias("partition")).count().collect()
    }
    offsets = [0, *accumulate(counts.get(partition, 0) for partition in range(max(counts)))]
    offset = F.lit(offsets)[F.spark_partition_id()]
    row_in_partition = F.monotonically_increasing_id().bitwiseAND((1 << ROW_BITS) - 1)
    return materialize(ordered.select(column, (offset + row_in_partition).alias(name)))


def sequences(events: DataFrame, catalogue: DataFrame, cut: TimeCut | None = None) -> DataFrame:
    """One row per user in time order, ties by (file, line); `catalogue` is (asin, item).

    Without a `cut` in time the split is leave-one-out.
    """
    train_end, valid_end = split_ends("events", cut)
    users = dense_ids(events, "user_id", "user")
    return (
        events.join(catalogue, "asin")
        .groupBy("user_id")
        .agg(F.sort_array(F.collect_list(F.struct(*EVENT_ORDER, "item"))).alias("events"))
        .join(users, "user_id")
        .select(
            "user",
            "user_id",
            F.col("events.item").alias("items"),
            F.col("events.time").alias("times"),
            train_end.alias("train_end"),
            valid_end.alias("valid_end"),
        )
    )


def only_training_events(sequence_rows: DataFrame) -> DataFrame:
    """DataFrame(items): the training part of each sequence. Nothing derived may see more than
    this.
    """
    return sequence_rows.select(F.slice("items", F.lit(1), F.col("train_end")).alias("items"))


def split_counters(sequence_rows: DataFrame) -> dict[str, int]:
    """Events by split, prefixes to train on, the longest sequence; targets that open a sequence,
    which nobody can be asked to predict.
    """
    length = F.size("items")
    row = sequence_rows.agg(
        F.sum("train_end").alias("train"),
        F.sum(F.col("valid_end") - F.col("train_end")).alias("valid"),
        F.sum(length - F.col("valid_end")).alias("test"),
        F.sum(F.greatest(F.col("train_end") - 1, F.lit(0))).alias("prefixes"),
        F.max(length).alias("longest"),
        F.count_if(F.col("train_end") == 0).alias("targets_without_history"),
    ).first()
    assert row is not None
    return {key: int(value) for key, value in row.asDict().items()}
