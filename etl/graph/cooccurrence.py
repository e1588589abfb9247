"""O of Eq. 1-2: for every pair of items, the sum of 1/(q-p) over users and positions p < q that
hold the two.

Only the training part of a sequence counts. Tasks make pairs from histories and cut them, in both
directions, into parts: ranges of (item, other) that hold about as many pairs each. A shuffle brings
a part's pairs together as a few large values, not as rows; one task sorts and sums them and writes
its rows. Parts follow from the data alone, so any partitioning gives the same bits in the same
files.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.graph.pairs import (
    PART,
    PIECE,
    Histories,
    Ints,
    Parts,
    SumOverflowError,
    Weighting,
    by_part,
    emitted,
    ends_of_pairs,
    flushed,
    part_bounds,
    totals,
)
from etl.spark.part_files import write_part_file
from etl.spark.session import num_partitions
from mdsrec import schema
from mdsrec.errors import InputError

log = logging.getLogger("etl")

EVENTS = 1 << 20  # of histories that are worked on together
BUCKETS = 1 << 14  # ranges of items whose pairs are counted to cut the parts
COUNTS = "what string, number int, count long"

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Shape:
    """What is known of the histories before pairs are made: how many have how many events, and of
    how many pairs the events of each range of `width` items are ends.
    """

    histories: dict[int, int]  # by number of events
    ends: Ints
    width: int

    def reach(self, weighting: Weighting) -> int:
        """The highest distance of a pair that counts."""
        return weighting.reach(max(self.histories, default=0))

    def weight(self, weighting: Weighting) -> float:
        """Of all pairs, those of an item with itself included: there are some only if
        sequences.repeats is keep.
        """
        return math.fsum(
            count * weighting.total(events) for events, count in self.histories.items()
        )


def shape_of(training: DataFrame, num_items: int, max_distance: int | None) -> Shape:
    """By one pass. BUCKETS numbers reach the driver, and as many as there are different lengths: at
    most sqrt(2 * events).
    """
    width = -(-num_items // BUCKETS)
    num_buckets = -(-num_items // width)
    ends = np.zeros(num_buckets, np.int64)
    histories = {}
    counts = (
        training.mapInArrow(partial(_counts, width, num_buckets, max_distance), COUNTS)
        .groupBy("what", "number")
        .agg(F.sum("count").alias("count"))
    )
    for row in sorted(counts.collect()):
        if row.what == "events":
            histories[row.number] = row["count"]
        else:
            ends[row.number] = row["count"]
    return Shape(histories, ends, width)


def write_cooccurrence(
    training: DataFrame,
    num_items: int,
    weighting: Weighting,
    version_uri: str,
    rows_per_file: int,
    part_size: int = PART,
) -> tuple[int, dict[str, Any]]:
    """Write O as Parquet files below `version_uri`; their rows, and counters: `pairs` of events,
    the weight kept and lost by max_distance.

    `training` is (items).
    """
    shape = shape_of(training, num_items, weighting.max_distance)
    reach = shape.reach(weighting)
    parts = part_bounds(shape.ends, shape.width, num_items, reach.bit_length(), part_size)
    make = partial(_packed_pairs, num_items, reach, parts)
    write = partial(_write_sums, num_items, weighting, reach, parts, version_uri, rows_per_file)
    written = (
        in_pieces(training, reach)
        .repartition(num_partitions(training.sparkSession))
        .mapInArrow(make, "part int, pairs binary")
        .repartitionById(len(parts.bounds) - 1, "part")
        .mapInArrow(write, "rows long, ends long")
        .agg(F.sum("rows").alias("rows"), F.sum("ends").alias("ends"))
        .first()
    )
    assert written is not None
    if not written.rows:
        write_part_file(version_uri, "part-00000-000", schema.COOCCURRENCE.empty_table())
    return written.rows or 0, {"pairs": (written.ends or 0) // 2, **_weights(shape, weighting)}


def _weights(shape: Shape, weighting: Weighting) -> dict[str, float]:
    whole = shape.weight(Weighting(weighting.distance))
    kept = shape.weight(weighting)
    lost = whole - kept
    share = lost / whole if whole else 0.0
    if weighting.max_distance is not None:
        setting = f"graph.max_distance = {weighting.max_distance}"
        log.info("%s leaves out %.3g%% of all weight (%.6g)", setting, 100 * share, lost)
    return {"kept_weight": kept, "lost_weight": lost, "lost_share": share}


def in_pieces(training: DataFrame, reach: int) -> DataFrame:
    """DataFrame(items): a history of more than PIECE events several times, each time PIECE events
    later, so that tasks share its pairs. A row's pairs begin with its first PIECE events.
    """
    last = F.greatest(F.size("items") - 1, F.lit(0))
    starts = F.sequence(F.lit(0), last, F.lit(PIECE))
    return training.select("items", F.explode(starts).alias("start")).select(
        F.slice("items", F.col("start") + 1, F.lit(PIECE + reach)).alias("items")
    )


def _counts(width: int, num_buckets: int, max_distance: int | None, batches: Batches) -> Batches:
    by_bucket = np.zeros(num_buckets, np.int64)
    by_events: Counter[int] = Counter()
    for histories in _histories(batches):
        ends = ends_of_pairs(histories, max_distance)
        found = np.bincount(histories.items // width, ends, minlength=num_buckets)
        by_bucket += found.astype(np.int64)
        by_events.update(histories.lengths.tolist())
    buckets = np.flatnonzero(by_bucket)
    yield pa.RecordBatch.from_pydict(
        {
            "what": ["ends"] * len(buckets) + ["events"] * len(by_events),
            "number": pa.array([*buckets.tolist(), *by_events], pa.int32()),
            "count": pa.array([*by_bucket[buckets].tolist(), *by_events.values()], pa.int64()),
        }
    )


def _packed_pairs(num_items: int, reach: int, parts: Parts, batches: Batches) -> Batches:
    blocks = (block for histories in _histories(batches) for block in emitted(histories, reach))
    for pairs in flushed(blocks):
        numbers, packed = zip(*by_part(pairs, num_items, parts), strict=True)
        yield pa.RecordBatch.from_pydict(
            {
                "part": pa.array(numbers, pa.int32()),
                "pairs": pa.array([p.tobytes() for p in packed], pa.binary()),
            }
        )


def _write_sums(
    num_items: int,
    weighting: Weighting,
    reach: int,
    parts: Parts,
    version_uri: str,
    rows_per_file: int,
    batches: Batches,
) -> Batches:
    """All pairs of one part, or of none."""
    part, ends = -1, 0

    def packed() -> Iterator[Ints]:
        nonlocal part, ends
        for batch in batches:
            part = batch.column("part")[0].as_py()
            for blob in batch.column("pairs"):
                pairs = np.frombuffer(blob.as_buffer(), np.int64)
                ends += len(pairs)
                yield pairs

    try:
        sums = totals(packed(), parts.bits, weighting.table(reach))
    except SumOverflowError as error:
        item, other = divmod(int(parts.bounds[part]) + error.key, num_items)
        raise InputError(
            f"items {item} and {other} meet too often, their weight passes "
            f"{2**63 // weighting.scale:,}: "
            'set graph.max_distance or sequences.repeats = "first"'
        ) from None
    for number, first in enumerate(range(0, len(sums.keys), rows_per_file)):
        here = slice(first, first + rows_per_file)
        item, other = np.divmod(sums.keys[here] + parts.bounds[part], num_items)
        columns = [
            item.astype(np.int32),
            other.astype(np.int32),
            sums.weights[here] / weighting.scale,
        ]
        rows = pa.Table.from_arrays([pa.array(c) for c in columns], schema=schema.COOCCURRENCE)
        write_part_file(version_uri, f"part-{part:05d}-{number:03d}", rows, ascending=("other",))
    yield pa.RecordBatch.from_pydict({"rows": [len(sums.keys)], "ends": [ends]})


def _histories(batches: Batches) -> Iterator[Histories]:
    """About EVENTS events at a time, however long the histories of a batch are."""
    for batch in batches:
        lists = batch.column("items")
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        before = np.cumsum(lengths) - lengths
        first = np.flatnonzero(np.diff(before // EVENTS, prepend=-1)).tolist()
        for start, stop in pairwise([*first, len(lengths)]):
            items = lists.slice(start, stop - start).flatten().to_numpy()
            yield Histories(items, lengths[start:stop])
