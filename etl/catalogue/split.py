"""Where histories are cut into training, validation and test events.

Leave-one-out holds out each user's last two events. A split in time holds out every event from one
moment on, whoever's it is. Either way repeated pairs and the k-core were settled over all events
before: they decide which events there are, not what is learnt from them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from etl.catalogue.amazon import TICKS_PER_SECOND
from mdsrec.config import SequencesConfig
from mdsrec.errors import InputError

BUCKET_BITS = 12  # a pass over the events brings a histogram of 2^12 counts to the driver
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TimeCut:
    """Events before `valid_from` train, from then on validate, from `test_from` on test."""

    valid_from: int
    test_from: int


class TimeRange(NamedTuple):
    """How many events there are; the time of the first and of the last."""

    total: int
    first: int
    last: int


def split_ends(events: str, cut: TimeCut | None) -> tuple[Column, Column]:
    """(train_end, valid_end) of a user's `events` in order of time.

    Leave-one-out, for which `cut` is None, leaves all of fewer than 3 events to training.
    """
    length = F.size(events)
    if cut is None:
        short = length < 3
        return (
            F.when(short, length).otherwise(length - 2),
            F.when(short, length).otherwise(length - 1),
        )
    return _num_before(events, cut.valid_from), _num_before(events, cut.test_from)


def _num_before(events: str, time: int) -> Column:
    return F.size(F.filter(events, lambda event: event["time"] < time))


def time_cut(events: DataFrame, config: SequencesConfig, edition: str) -> TimeCut | None:
    """Where `sequences.cut` falls among the events; None under leave-one-out."""
    if config.cut is None:
        return None
    first, second = config.cut
    if isinstance(first, str) and isinstance(second, str):
        return TimeCut(_midnight(first, edition), _midnight(second, edition))
    assert isinstance(first, float) and isinstance(second, float)
    extent = time_range(events)
    ranks = (rank_of_share(share, extent.total) for share in (first, second))
    return TimeCut(*(time_of_rank(events, rank, extent) for rank in ranks))


def rank_of_share(share: float, total: int) -> int:
    """floor(share * total) of the decimal that was written: 0.29 of 100 is 29."""
    return math.floor(Fraction(repr(share)) * total)


def time_of_rank(events: DataFrame, rank: int, extent: TimeRange) -> int:
    """The time of the event with this 0-based rank in order of time.

    The range of times is narrowed to the bucket of a histogram that holds the rank, until a bucket
    is one tick: milliseconds of decades take four passes.
    """
    _, first, last = extent
    while first < last:
        bits = max((last - first).bit_length() - BUCKET_BITS, 0)
        inside = events.where(F.col("time").between(first, last))
        bucket = F.shiftright(F.col("time") - first, bits).alias("bucket")
        counts = {row.bucket: row["count"] for row in inside.groupBy(bucket).count().collect()}
        number, rank = _bucket_at(counts, rank)
        first += number << bits
        last = min(last, first + (1 << bits) - 1)
    return first


def _bucket_at(counts: Mapping[int, int], rank: int) -> tuple[int, int]:
    """The bucket that holds the event of this rank, and its rank there."""
    for bucket in sorted(counts):
        if rank < counts[bucket]:
            return bucket, rank
        rank -= counts[bucket]
    raise AssertionError(f"rank {rank} is beyond the last event")


def time_range(events: DataFrame) -> TimeRange:
    row = events.agg(F.count("time"), F.min("time"), F.max("time")).first()
    assert row is not None
    return TimeRange(*row)


def check_targets(
    sequence_rows: DataFrame, cut: TimeCut, config: SequencesConfig, edition: str
) -> None:
    """InputError where a part of the split has nothing to predict from what stands before it."""
    seen = F.greatest("train_end", F.lit(1))
    counts = {
        "training": F.sum(F.greatest(F.col("train_end") - 1, F.lit(0))),
        "validation": F.sum(F.greatest(F.col("valid_end") - seen, F.lit(0))),
        "test": F.sum(F.size("items") - F.greatest("valid_end", F.lit(1))),
    }
    found = sequence_rows.agg(*(total.alias(part) for part, total in counts.items())).first()
    assert found is not None
    empty = [part for part in counts if not found[part]]
    if empty:
        extent = time_range(sequence_rows.select(F.explode("times").alias("time")))
        first, last = iso_time(extent.first, edition), iso_time(extent.last, edition)
        raise InputError(
            f"sequences.cut = {list(config.cut or ())} cuts at {iso_time(cut.valid_from, edition)} and "
            f"{iso_time(cut.test_from, edition)}, which leaves {empty[0]} no event that has one of the "
            f"same user before it; the events lie between {first} and {last}: move the cut"
        )


def cut_counters(cut: TimeCut, edition: str) -> dict[str, Any]:
    """The moments of the cut, as ISO 8601 writes them and in the edition's unit."""
    return {
        "valid_from": iso_time(cut.valid_from, edition),
        "test_from": iso_time(cut.test_from, edition),
        "valid_from_time": cut.valid_from,
        "test_from_time": cut.test_from,
    }


def iso_time(time: int, edition: str) -> str:
    """An edition's time in UTC, as in 2017-01-01T00:00:00Z."""
    moment = EPOCH + timedelta(milliseconds=time * 1000 // TICKS_PER_SECOND[edition])
    return moment.isoformat().replace("+00:00", "Z")


def _midnight(day: str, edition: str) -> int:
    return (date.fromisoformat(day) - EPOCH.date()).days * 86_400 * TICKS_PER_SECOND[edition]
