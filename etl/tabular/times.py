"""The unit of a column of times, decided over all rows.

Numbers are seconds, milliseconds, microseconds or nanoseconds by their size. The kind of most rows
is that of the column; a row of another kind is rejected, because its time may be off by decades.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.tabular.columns import EventColumns
from mdsrec.errors import InputError

log = logging.getLogger("etl")

DAY = 86_400
MICROS = 10**6  # per second
MOST_OTHERS = 0.1  # share of rows of another kind; with more the column is refused
MILLISECONDS = ("milliseconds", "microseconds", "nanoseconds")


@dataclass(frozen=True)
class TimeUnit:
    """The kind of a column's times, and the unit in which they are stored."""

    kind: str
    ticks: int  # stored per second: 1 or 1000

    @property
    def name(self) -> str:
        return "seconds" if self.ticks == 1 else "milliseconds"


def decide_unit(rows: DataFrame, column: str, now: datetime) -> TimeUnit | None:
    """Return the unit of the rows' `kind` and `micros`; None if no row has a time.

    Times are stored in seconds if they are whole seconds in dates or in a column of seconds,
    otherwise in milliseconds. InputError if too many rows are of another kind.
    """
    usable = F.when(F.col("micros").between(0, _latest(now)), F.col("micros"))
    found = (
        rows.where(F.col("kind").isNotNull())
        .groupBy("kind")
        .agg(
            F.count("*").alias("rows"),
            F.max(F.pmod("micros", F.lit(MICROS))).alias("fraction"),
            F.min(usable).alias("first"),
            F.max(usable).alias("last"),
        )
        .collect()
    )
    if not found:
        return None
    ordered = sorted(found, key=lambda row: (-row.rows, row.kind))
    most, total = ordered[0], sum(row.rows for row in found)
    if total - most.rows > MOST_OTHERS * total:
        counts = ", ".join(f"{row.rows:,} are {row.kind}" for row in ordered)
        raise InputError(
            f"the column {column!r} mixes kinds of times: {counts}: set input.time_unit if all "
            "numbers have one unit, or mend the column"
        )
    ticks = 1000 if most.kind in MILLISECONDS or most.fraction else 1
    if most.first is not None:
        first, last = _day(most.first), _day(most.last)
        log.info("times of the column %r: %s, from %s to %s", column, most.kind, first, last)
    return TimeUnit(most.kind, ticks)


def with_time(
    rows: DataFrame, unit: TimeUnit | None, now: datetime, columns: EventColumns
) -> DataFrame:
    """Replace `kind` and `micros` by `time`, and reject rows of another kind or of the future.

    A rejected row is shown with the names of its `columns`.
    """
    if unit is None:
        return rows.withColumn("time", F.lit(None).cast("long")).drop("kind", "micros")
    kind, micros = F.col("kind"), F.col("micros")
    problem = (
        F.when(kind != unit.kind, F.format_string(f"time in %s, most are in {unit.kind}", kind))
        .when(micros < 0, "time before 1970")
        .when(micros > _latest(now), "time in the future")
    )
    reason = F.coalesce("reason", problem)
    cells = (F.col("user_id"), F.col("item_id"), F.timestamp_micros(micros))
    named = [cell.alias(name) for cell, name in zip(cells, columns.names, strict=True)]
    refused = F.to_json(F.struct(*named))
    time = F.floor(micros / F.lit(MICROS // unit.ticks)).cast("long")
    return rows.withColumns(
        {
            "raw": F.coalesce("raw", F.when(problem.isNotNull(), refused)),
            "time": F.when(reason.isNull(), time),
            "reason": reason,
        }
    ).drop("kind", "micros")


def _latest(now: datetime) -> int:
    """Return the last time that is not in the future, a day after `now`, in microseconds."""
    return (int((now - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) + DAY) * MICROS


def _day(micros: int) -> str:
    return str(datetime.fromtimestamp(micros / MICROS, UTC).date())
