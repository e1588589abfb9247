"""The split of each user's history into training, validation and test events.

Leave-one-out holds out each user's last two events. A split in time holds out all events from one
moment on. In both, repeated pairs and the k-core are dropped before the split, over all events:
they decide which events exist, not what is learned from them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mdsrec.config import SequencesConfig
from mdsrec.config.etl import days_of_cut
from mdsrec.errors import InputError

BUCKET_BITS = 12  # each pass over the events collects a histogram of 2^12 counts
DAY = 86_400  # seconds
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TimeCut:
    """The two moments of a split in time, in the unit of the times."""

    valid_from: int  # earlier events are training
    test_from: int  # events from here on are test, those between validation


class TimeRange(NamedTuple):
    """The number of events, and the times of the first and the last one."""

    num_events: int
    first: int
    last: int


def split_ends(events: str, cut: TimeCut | None) -> tuple[Column, Column]:
    """Return the columns (train_end, valid_end) for a user's `events` in order of time.

    `cut` = None means leave-one-out, where fewer than 3 events are training only.
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


def time_cut(events: DataFrame, config: SequencesConfig, ticks: int) -> TimeCut | None:
    """Return the moments of `sequences.cut`; None for leave-one-out.

    A date means its midnight in UTC. A share means the time of the event with that rank. Days are
    counted back from the midnight after the last event.
    """
    if config.cut is None:
        return None
    times = time_range(events)
    return TimeCut(*(_moment(cut, events, times, ticks) for cut in config.cut))


def _moment(cut: float | str, events: DataFrame, times: TimeRange, ticks: int) -> int:
    """Return the moment of a share, a date or days, in the unit of the times."""
    if isinstance(cut, float):
        return time_of_rank(events, rank_of_share(cut, times.num_events), times)
    day = DAY * ticks
    if days := days_of_cut(cut):
        return (times.last // day + 1 - days) * day
    return (date.fromisoformat(cut) - EPOCH.date()).days * day


def rank_of_share(share: float, num_events: int) -> int:
    """Return floor(share * num_events) in exact decimals: 0.29 of 100 is 29."""
    return math.floor(Fraction(repr(share)) * num_events)


def time_of_rank(events: DataFrame, rank: int, times: TimeRange) -> int:
    """Return the time of the event with this rank, counted from 0, in order of time.

    Each pass counts the events of the range in a histogram and narrows the range to the bucket that
    holds the rank, until a bucket is one tick. Decades in milliseconds take four passes.
    """
    _, first, last = times
    while first < last:
        bits = max((last - first).bit_length() - BUCKET_BITS, 0)
        inside = events.where(F.col("time").between(first, last))
        bucket = F.shiftright(F.col("time") - first, bits).alias("bucket")
        counts = {row.bucket: row["count"] for row in inside.groupBy(bucket).count().collect()}
        number, rank = _bucket_of_rank(counts, rank)
        first += number << bits
        last = min(last, first + (1 << bits) - 1)
    return first


def _bucket_of_rank(counts: Mapping[int, int], rank: int) -> tuple[int, int]:
    """Return the bucket that holds the event of this rank, and its rank within the bucket."""
    for bucket in sorted(counts):
        if rank < counts[bucket]:
            return bucket, rank
        rank -= counts[bucket]
    raise AssertionError(f"rank {rank} is beyond the last event")


def time_range(events: DataFrame) -> TimeRange:
    """Return the number of events and their first and last time."""
    row = events.agg(F.count("time"), F.min("time"), F.max("time")).first()
    assert row is not None
    return TimeRange(*row)


def check_targets(
    sequence_rows: DataFrame, cut: TimeCut, config: SequencesConfig, ticks: int
) -> None:
    """Raise InputError if a part of the split has no event that follows one of the same user."""
    first_target = F.greatest("train_end", F.lit(1))
    counts = {
        "training": F.sum(F.greatest(F.col("train_end") - 1, F.lit(0))),
        "validation": F.sum(F.greatest(F.col("valid_end") - first_target, F.lit(0))),
        "test": F.sum(F.size("items") - F.greatest("valid_end", F.lit(1))),
    }
    found = sequence_rows.agg(*(total.alias(part) for part, total in counts.items())).first()
    assert found is not None
    empty = [part for part in counts if not found[part]]
    if empty:
        times = time_range(sequence_rows.select(F.explode("times").alias("time")))
        moments = (cut.valid_from, cut.test_from, times.first, times.last)
        valid_from, test_from, first, last = (iso_time(moment, ticks) for moment in moments)
        raise InputError(
            f"sequences.cut = {list(config.cut or ())} cuts at {valid_from} and {test_from}: "
            f"no {empty[0]} event follows another event of the same user; "
            f"the events lie between {first} and {last}: move the cut"
        )


def cut_counters(cut: TimeCut, ticks: int) -> dict[str, Any]:
    """Return the moments of the cut, in ISO 8601 and in the unit of the times."""
    return {
        "valid_from": iso_time(cut.valid_from, ticks),
        "test_from": iso_time(cut.test_from, ticks),
        "valid_from_time": cut.valid_from,
        "test_from_time": cut.test_from,
    }


def iso_time(time: int, ticks: int) -> str:
    """Return a time in UTC, as 2017-01-01T00:00:00Z."""
    moment = EPOCH + timedelta(milliseconds=time * 1000 // ticks)
    return moment.isoformat().replace("+00:00", "Z")
