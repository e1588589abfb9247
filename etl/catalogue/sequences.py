"""Dense ids, and one sequence per user, split into training, validation and test events."""

from itertools import accumulate

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.catalogue.interactions import EVENT_ORDER
from etl.catalogue.split import TimeCut, split_ends
from etl.spark.session import materialize

ROW_BITS = 33  # monotonically_increasing_id = partition << 33 | row in the partition


def dense_ids(values: DataFrame, column: str, name: str) -> DataFrame:
    """Return DataFrame(column, name): the distinct values and their ranks in binary order.

    The values are sorted over all partitions, so the ids do not depend on the partitioning.
    """
    return number_rows(values.select(column).distinct().orderBy(column), name)


def number_rows(ordered: DataFrame, name: str) -> DataFrame:
    """Add the position of each row, from 0, as the column `name`.

    It is the row's number in its partition plus the number of rows in the partitions before. So
    only one count per partition reaches the driver.
    """
    rows = materialize(ordered)
    counts = {
        row.partition: row["count"]
        for row in rows.groupBy(F.spark_partition_id().alias("partition")).count().collect()
    }
    last = max(counts, default=0)
    offsets = [0, *accumulate(counts.get(partition, 0) for partition in range(last))]
    offset = F.lit(offsets)[F.spark_partition_id()]
    row_in_partition = F.monotonically_increasing_id().bitwiseAND((1 << ROW_BITS) - 1)
    return materialize(rows.select("*", (offset + row_in_partition).alias(name)))


def build_sequences(
    events: DataFrame, catalogue: DataFrame, cut: TimeCut | None = None
) -> DataFrame:
    """Build one row per user with events in EVENT_ORDER; `catalogue` is (item_id, item).

    Without a `cut` in time the split is leave-one-out.
    """
    train_end, valid_end = split_ends("events", cut)
    users = dense_ids(events, "user_id", "user")
    return (
        events.join(catalogue, "item_id")
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
    """Return DataFrame(items): the training events of each sequence.

    Tables that training reads are derived from these only.
    """
    return sequence_rows.select(F.slice("items", F.lit(1), F.col("train_end")).alias("items"))


def split_counters(sequence_rows: DataFrame) -> dict[str, int]:
    """Count events by split and training prefixes, and find the longest sequence.

    `targets_without_history` are held-out events that open their sequence: no prefix predicts them.
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
