"""The raw input of an experiment, parsed: files of the Amazon reviews, or tables of the user's."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from etl.builders.workspace import Workspace
from etl.catalogue import amazon, completeness
from etl.catalogue.parsing import BLANK, OUTCOME, with_outcome
from etl.catalogue.raw import RawFile, raw_lines
from etl.tabular.table_input import TableInput
from etl.tabular.values import TICKS
from mdsrec.errors import InputError
from mdsrec.schema import METADATA


@dataclass
class ParsedLines:
    """All lines of the files of interactions or of items, parsed and persisted.

    `rows` has a row per line. One pass over it counts `num_rows` and `reasons`.
    """

    rows: DataFrame
    files: tuple[RawFile, ...]
    num_rows: int = 0
    lines: dict[int, int] = field(default_factory=dict)  # number of the last line by file
    reasons: dict[str, int] = field(default_factory=dict)  # number of rows by reason

    def __post_init__(self) -> None:
        self.rows.persist()
        groups = self.rows.groupBy("file", "reason").agg(
            F.count("*").alias("rows"), F.max("line").alias("last")
        )
        for row in sorted(groups.collect(), key=lambda r: (r.file, r.reason or "")):
            self.num_rows += row.rows
            self.lines[row.file] = max(self.lines.get(row.file, 0), row["last"])
            if row.reason is not None:
                self.reasons[row.reason] = self.reasons.get(row.reason, 0) + row.rows

    @property
    def usable_rows(self) -> DataFrame:
        return self.rows.where(F.col("reason").isNull()).drop(*OUTCOME)

    @property
    def rejected_rows(self) -> DataFrame:
        """Rows of the table `rejects`, without blank lines."""
        return self.rows.where(F.col("reason").isNotNull() & (F.col("reason") != BLANK))

    @property
    def num_rejected(self) -> dict[str, int]:
        """Number of rejected lines by reason, without blank lines."""
        return {reason: n for reason, n in self.reasons.items() if reason != BLANK}

    @property
    def counters(self) -> dict[str, int]:
        return {
            "files": len(self.files),
            "lines": self.num_rows,
            "blank": self.reasons.get(BLANK, 0),
            "rejected": sum(self.num_rejected.values()),
        }


class RawInput(Protocol):
    """Both parts of the raw input. `kinds` are their names in messages and counters."""

    kinds: tuple[str, str]
    counters: dict[str, Any]  # of the table of interactions

    @property
    def interactions(self) -> ParsedLines: ...

    @property
    def records(self) -> ParsedLines: ...

    @property
    def ticks(self) -> int:
        """Return how many of the times' units are a second."""
        ...


def open_input(space: Workspace) -> RawInput:
    """Return the raw input in the format that `input.format` names."""
    return AmazonInput(space) if space.experiment.input.format == "amazon" else Tables(space)


class AmazonInput:
    """Files of the Amazon reviews of one edition."""

    kinds = ("reviews", "metadata")

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.edition = str(space.experiment.input.edition)
        self.counters: dict[str, Any] = {}

    @cached_property
    def interactions(self) -> ParsedLines:
        files = self.space.inputs.interactions
        lines = raw_lines(self.space.spark, files)
        parsed = ParsedLines(amazon.parse_reviews(lines, self.edition), files)
        _check_usable(parsed, "review", self._remedy)
        return parsed

    @cached_property
    def records(self) -> ParsedLines:
        files = self.space.inputs.items
        lines = raw_lines(self.space.spark, files)
        parsed = ParsedLines(amazon.parse_metadata(lines, self.edition), files)
        if files:
            _check_usable(parsed, "metadata record", self._remedy)
            completeness.warn_of_absent_fields(parsed.usable_rows, [file.uri for file in files])
        return parsed

    @property
    def ticks(self) -> int:
        return amazon.TICKS_PER_SECOND[self.edition]

    @property
    def _remedy(self) -> str:
        return f"is input.edition = {self.edition!r} right?"


class Tables:
    """Tables of the user's own."""

    kinds = ("interactions", "items")

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.tables = TableInput(
            space.experiment.input, space.inputs.interactions, space.inputs.items
        )
        self.counters: dict[str, Any] = {}

    @cached_property
    def interactions(self) -> ParsedLines:
        rows, unit = self.tables.interactions(self.space.spark)
        parsed = ParsedLines(rows, self.space.inputs.interactions)
        _check_usable(parsed, "interaction", "are input.columns right?")
        assert unit is not None
        self.counters = {"time_unit": unit.name}
        return parsed

    @cached_property
    def records(self) -> ParsedLines:
        files = self.space.inputs.items
        if not files:
            none = from_arrow_schema(with_outcome(METADATA))
            return ParsedLines(self.space.spark.createDataFrame([], none), ())
        parsed = ParsedLines(self.tables.items(self.space.spark), files)
        _check_usable(parsed, "item", "are input.columns right?")
        return parsed

    @property
    def ticks(self) -> int:
        return TICKS[self.space.manifest("interactions").counters["time_unit"]]


def _check_usable(parsed: ParsedLines, kind: str, remedy: str) -> None:
    """Raise InputError if all lines are unusable, as lines of another edition are."""
    others = len(parsed.files) - 1
    where = parsed.files[0].uri + (f" and {others} more files" if others else "")
    if not parsed.num_rows:
        raise InputError(f"{where}: there are no rows")
    if sum(parsed.reasons.values()) == parsed.num_rows:
        most_frequent = max(parsed.reasons, key=lambda reason: parsed.reasons[reason])
        raise InputError(
            f"{where}: no usable {kind} in {parsed.num_rows} lines ({most_frequent}): {remedy}"
        )
