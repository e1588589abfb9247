"""O of Eq. 1-2: for every pair of items, the sum of 1/(q-p) over users and positions p < q that
hold the two.

Only the training part of a sequence counts. Weights are int64 in fixed point, so a sum does not
depend on its order: any partitioning gives the same bits. Pairs are emitted as i < j, combined in
the task, and mirrored at the end.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

Ints = npt.NDArray[np.int64]
Sums = tuple[Ints, Ints, Ints]  # key = low * num_items + high, weight, pairs of events

SCALE = math.lcm(*range(1, 31))  # 2.3e12: 1/d is exact to d = 30, within 2.2e-13 beyond
MOST_PAIRS = (2**63 - 1) // SCALE  # of one key, whose weights still sum below 2^63
COMBINE_AT = 1 << 22  # pairs held before equal keys are summed
YIELD_AT = 1 << 21  # distinct keys held before they leave the task
ROWS = "low int, high int, weight long, pairs long"


def cooccurrence(training: DataFrame, num_items: int, distance: bool) -> DataFrame:
    """DataFrame(item, other, score, pairs), both directions; `training` is (items).

    Without `distance` each pair counts 1. A sum beyond int64 is an error of Spark's (ANSI), never a
    wrong number.
    """
    scale = SCALE if distance else 1
    emit = partial(_sum_pairs, num_items, scale, distance)
    half = (
        training.mapInArrow(emit, ROWS)
        .groupBy("low", "high")
        .agg(F.sum("weight").alias("weight"), F.sum("pairs").alias("pairs"))
        .withColumn("score", F.col("weight").cast("double") / F.lit(float(scale)))
    )
    there = half.select(F.col("low").alias("item"), F.col("high").alias("other"), "score", "pairs")
    back = half.select(F.col("high").alias("item"), F.col("low").alias("other"), "score", "pairs")
    return there.unionAll(back)


def emitted_pairs(items: Ints, lengths: Ints, num_items: int) -> Iterator[tuple[int, Ints]]:
    """(distance, keys) for each distance: every pair of unequal items that far apart in one user's
    events.

    `items` holds the users' events one after the other, `lengths` how many each has.
    """
    position = np.arange(len(items), dtype=np.int64)
    left = np.repeat(np.cumsum(lengths), lengths) - position  # events from here to the user's end
    distance = 1
    while True:
        alive = left > distance
        position, left = position[alive], left[alive]
        if not position.size:
            return
        a, b = items[position], items[position + distance]
        keys = np.minimum(a, b) * num_items + np.maximum(a, b)
        yield distance, keys[a != b]
        distance += 1


def combined(parts: list[Sums]) -> Sums:
    """Equal keys summed; keys ascend."""
    keys, weights, pairs = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    if not len(starts):
        return keys, weights, pairs
    num_pairs = np.add.reduceat(pairs[order], starts)
    if num_pairs.max() > MOST_PAIRS:
        raise OverflowError(f"two items meet more than {MOST_PAIRS:,} times in one task")
    return keys[starts], np.add.reduceat(weights[order], starts), num_pairs


def pair_sums(
    batches: Iterator[tuple[Ints, Ints]], num_items: int, scale: int, distance: bool
) -> Iterator[Sums]:
    """Sums over all batches of (items, lengths); a key comes more than once only past YIELD_AT
    keys.
    """
    parts: list[Sums] = []
    held = 0
    for items, lengths in batches:
        for apart, keys in emitted_pairs(items, lengths, num_items):
            weight = round(scale / apart) if distance else 1
            parts.append((keys, np.full_like(keys, weight), np.ones_like(keys)))
            held += len(keys)
            if held > COMBINE_AT:
                parts = [combined(parts)]
                held = len(parts[0][0])
            if held > YIELD_AT and len(parts) == 1:
                yield parts.pop()
                held = 0
    if parts:
        yield combined(parts)


def _sum_pairs(
    num_items: int, scale: int, distance: bool, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for keys, weights, pairs in pair_sums(map(_flat, batches), num_items, scale, distance):
        columns: list[Any] = [
            (keys // num_items).astype(np.int32),
            (keys % num_items).astype(np.int32),
            weights,
            pairs,
        ]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column) for column in columns], names=["low", "high", "weight", "pairs"]
        )


def _flat(batch: pa.RecordBatch) -> tuple[Ints, Ints]:
    lists = batch.column("items")
    items = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return items, pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
