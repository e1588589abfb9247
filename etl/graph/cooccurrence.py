"""The co-occurrence matrix O (Eq. 1-2): the sum of 1/(q-p) over users and positions p < q.

An entry belongs to the items at p and q. Only the training part of a sequence counts. Transitions
are the same sum with weights of their own (etl/graph/weighting.py).

Tasks make pairs from histories and divide them, in both directions, into parts: ranges of keys
(item, other) with about the same number of pairs. A shuffle moves the pairs of a part as a few
large values, not as rows. One task then sorts and sums them and writes the part's rows. Parts
depend only on the data, so any partitioning gives the same bits in the same files.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.graph.pairs import (
    ENDS_PER_PART,
    EVENTS_PER_PIECE,
    Histories,
    Parts,
    SumOverflowError,
    Sums,
    count_ends,
    make_pairs,
    merge_blocks,
    part_bounds,
    split_by_part,
    sum_weights,
)
from etl.graph.weighting import Weighting, code_bits
from etl.spark.part_files import write_part_file
from etl.spark.session import num_partitions
from mdsrec import schema
from mdsrec.arrays import Ints
from mdsrec.errors import InputError

log = logging.getLogger("etl")

EVENTS_PER_BATCH = 1 << 20
MAX_PARTS = 1 << 12  # a larger input has larger parts and files, not more of them
MAX_RANGES = 1 << 14  # of items, whose ends are counted to divide the keys into parts
COUNTS = "kind string, number int, count long"

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class HistoryStatistics:
    """Statistics of the histories, collected before pairs are made."""

    num_histories: dict[int, int]  # by number of events
    ends: Ints  # of pairs, for each range of `width` items
    width: int

    def reach(self, weighting: Weighting) -> int:
        """Return the largest distance of a pair that counts."""
        return weighting.reach(max(self.num_histories, default=0))

    def weight(self, weighting: Weighting) -> float:
        """Return the weight of all pairs, including those of an item with itself."""
        return math.fsum(
            count * weighting.total(events) for events, count in self.num_histories.items()
        )


def measure_histories(
    training: DataFrame, num_items: int, max_distance: int | None
) -> HistoryStatistics:
    """Count histories and ends in one pass.

    The driver gets at most MAX_RANGES numbers, and one for each length of a history: at most
    sqrt(2 * events) lengths differ.
    """
    width = -(-num_items // MAX_RANGES)
    num_ranges = -(-num_items // width)
    ends = np.zeros(num_ranges, np.int64)
    num_histories = {}
    counts = (
        training.mapInArrow(partial(_count, width, num_ranges, max_distance), COUNTS)
        .groupBy("kind", "number")
        .agg(F.sum("count").alias("count"))
    )
    for row in sorted(counts.collect()):
        if row.kind == "events":
            num_histories[row.number] = row["count"]
        else:
            ends[row.number] = row["count"]
    return HistoryStatistics(num_histories, ends, width)


def write_cooccurrence(
    training: DataFrame,
    num_items: int,
    weighting: Weighting,
    version_uri: str,
    rows_per_file: int,
    part_size: int = ENDS_PER_PART,
) -> tuple[int, dict[str, Any]]:
    """Write the sums as Parquet files below `version_uri` -> the number of rows, and counters.

    A file has `rows_per_file` rows at most, unless there would be more than MAX_PARTS such files.
    `training` is (items). Counters are `pairs` of events, and the weight kept and lost by
    max_distance.
    """
    statistics = measure_histories(training, num_items, weighting.max_distance)
    reach = statistics.reach(weighting)
    least = -(-int(statistics.ends.sum()) // MAX_PARTS)
    part_size, rows_per_file = max(part_size, least), max(rows_per_file, least)
    parts = part_bounds(statistics.ends, statistics.width, num_items, code_bits(reach), part_size)
    make = partial(_packed_pairs, num_items, weighting.counts_itself, reach, parts)
    write = partial(_write_sums, num_items, weighting, reach, parts, version_uri, rows_per_file)
    written = (
        split_histories(training, reach)
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
    counters = {"pairs": (written.ends or 0) // 2, **_weight_counters(statistics, weighting)}
    return written.rows or 0, counters


def _weight_counters(statistics: HistoryStatistics, weighting: Weighting) -> dict[str, float]:
    total = statistics.weight(replace(weighting, max_distance=None))
    kept = statistics.weight(weighting)
    lost = total - kept
    share = lost / total if total else 0.0
    if weighting.max_distance is not None:
        setting = f"{weighting.key} = {weighting.max_distance}"
        log.info("%s leaves out %.3g%% of all weight (%.6g)", setting, 100 * share, lost)
    return {"kept_weight": kept, "lost_weight": lost, "lost_share": share}


def split_histories(training: DataFrame, reach: int) -> DataFrame:
    """Split long histories -> DataFrame(items), so that several tasks share their pairs.

    Each row starts EVENTS_PER_PIECE events after the previous one and ends `reach` events later
    than its piece, so it holds all pairs that begin in its piece.
    """
    last = F.greatest(F.size("items") - 1, F.lit(0))
    starts = F.sequence(F.lit(0), last, F.lit(EVENTS_PER_PIECE))
    return training.select("items", F.explode(starts).alias("start")).select(
        F.slice("items", F.col("start") + 1, F.lit(EVENTS_PER_PIECE + reach)).alias("items")
    )


def _count(width: int, num_ranges: int, max_distance: int | None, batches: Batches) -> Batches:
    """Yield the ends by range of items, and the histories by number of events."""
    by_range = np.zeros(num_ranges, np.int64)
    by_events: Counter[int] = Counter()
    for histories in _histories(batches):
        ends = count_ends(histories, max_distance)
        added = np.bincount(histories.items // width, ends, minlength=num_ranges)
        by_range += added.astype(np.int64)
        by_events.update(histories.lengths.tolist())
    ranges = np.flatnonzero(by_range)
    yield pa.RecordBatch.from_pydict(
        {
            "kind": ["ends"] * len(ranges) + ["events"] * len(by_events),
            "number": pa.array([*ranges.tolist(), *by_events], pa.int32()),
            "count": pa.array([*by_range[ranges].tolist(), *by_events.values()], pa.int64()),
        }
    )


def _packed_pairs(
    num_items: int, itself: bool, reach: int, parts: Parts, batches: Batches
) -> Batches:
    blocks = (
        block for histories in _histories(batches) for block in make_pairs(histories, reach, itself)
    )
    for pairs in merge_blocks(blocks):
        numbers, packed = zip(*split_by_part(pairs, num_items, parts), strict=True)
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
    """Sum the pairs of a task, which all belong to one part, and write its rows."""
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
        sums = sum_weights(packed(), parts.bits, weighting.table(reach))
    except SumOverflowError as error:
        item, other = divmod(int(parts.bounds[part]) + error.key, num_items)
        raise InputError(
            f"items {item} and {other} co-occur too often: their weight exceeds "
            f"{2**63 // weighting.scale:,}: "
            f'set a lower {weighting.key} or sequences.repeats = "first"'
        ) from None
    sums = Sums(*(column[sums.weights > 0] for column in sums))  # small weights may round to 0
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
    """Yield about EVENTS_PER_BATCH events at a time, however long the histories of a batch are."""
    for batch in batches:
        lists = batch.column("items")
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        before = np.cumsum(lengths) - lengths
        first = np.flatnonzero(np.diff(before // EVENTS_PER_BATCH, prepend=-1)).tolist()
        for start, stop in pairwise([*first, len(lengths)]):
            items = lists.slice(start, stop - start).flatten().to_numpy()
            yield Histories(items, lengths[start:stop])
