"""The raw input of an experiment, parsed: files of the Amazon reviews, or tables of the user's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.builders.parsed_batches import LineParser, parsed_rows
from etl.builders.workspace import Workspace
from etl.catalogue import amazon, completeness
from etl.catalogue.parsing import BLANK, OUTCOME, PARSER_VERSION
from etl.catalogue.raw import RawFile, raw_lines
from etl.tabular.listing import kind_of
from etl.tabular.table_input import EVENTS, TableInput
from etl.tabular.values import TICKS
from mdsrec.errors import InputError
from mdsrec.schema import INTERACTIONS, METADATA


@dataclass
class ParsedLines:
    """All lines of the files of interactions or of items, parsed.

    `rows` has a row per line. One pass over it counts `num_rows` and `reasons`.
    """

    rows: DataFrame
    files: tuple[RawFile, ...]
    num_rows: int = 0
    lines: dict[int, int] = field(default_factory=dict)  # number of the last line by file
    reasons: dict[str, int] = field(default_factory=dict)  # number of rows by reason

    def __post_init__(self) -> None:
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
        self.settings = {"parser": PARSER_VERSION, "edition": self.edition}

    @cached_property
    def interactions(self) -> ParsedLines:
        files = self.space.inputs.interactions

        def parse(positions: Sequence[int]) -> DataFrame:
            return amazon.parse_reviews(self._lines(files, positions), self.edition)

        parser = LineParser("interactions", self.settings, INTERACTIONS, parse)
        rows = parsed_rows(self.space, parser, self.space.contents("interactions"))
        parsed = ParsedLines(rows, files)
        _check_usable(parsed, "review", self._remedy)
        return parsed

    @cached_property
    def records(self) -> ParsedLines:
        files = self.space.inputs.items

        def parse(positions: Sequence[int]) -> DataFrame:
            return amazon.parse_metadata(self._lines(files, positions), self.edition)

        parser = LineParser("items", self.settings, METADATA, parse)
        rows = parsed_rows(self.space, parser, self.space.contents("metadata"))
        parsed = ParsedLines(rows, files)
        if files:
            _check_usable(parsed, "metadata record", self._remedy)
            completeness.warn_of_absent_fields(parsed.usable_rows, [file.uri for file in files])
        return parsed

    def _lines(self, files: Sequence[RawFile], positions: Sequence[int]) -> DataFrame:
        return raw_lines(self.space.spark, [files[position] for position in positions])

    @property
    def ticks(self) -> int:
        return amazon.TICKS_PER_SECOND[self.edition]

    @property
    def _remedy(self) -> str:
        return f"is input.edition = {self.edition!r} right?"


class Tables:
    """Tables of the user's own. The rows of a Spark source are read at every build."""

    kinds = ("interactions", "items")

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.config = space.experiment.input
        self.tables = TableInput(self.config, space.inputs.interactions, space.inputs.items)
        self.counters: dict[str, Any] = {}

    @cached_property
    def interactions(self) -> ParsedLines:
        spark, files = self.space.spark, self.space.inputs.interactions
        if self.config.source is not None:
            events = self.tables.events(spark).persist()
        else:
            columns = self.tables.event_columns(spark).names
            settings = self._settings(columns=columns, time_unit=self.config.time_unit)
            events = self._parsed("interactions", settings, EVENTS)
        rows, unit = self.tables.with_times(spark, events)
        parsed = ParsedLines(rows, files)
        _check_usable(parsed, "interaction", "are input.columns right?")
        assert unit is not None
        self.counters = {"time_unit": unit.name}
        return parsed

    @cached_property
    def records(self) -> ParsedLines:
        spark, files = self.space.spark, self.space.inputs.items
        if self.config.source is not None and files:
            rows = self.tables.items(spark).persist()
        else:
            columns = asdict(self.tables.item_columns(spark)) if files else {}
            rows = self._parsed("items", self._settings(columns=columns), METADATA)
        parsed = ParsedLines(rows, files)
        if files:
            _check_usable(parsed, "item", "are input.columns right?")
        return parsed

    def _settings(self, **more: Any) -> dict[str, Any]:
        return {"parser": PARSER_VERSION, "separator": self.config.separator, **more}

    def _parsed(self, kind: str, settings: dict[str, Any], schema: pa.Schema) -> DataFrame:
        """Return the parsed rows of the files. The same bytes may be CSV or JSON, by their name."""
        is_event = kind == "interactions"
        files = self.space.inputs.interactions if is_event else self.space.inputs.items
        read = self.tables.events if is_event else self.tables.items
        contents = self.space.contents("interactions" if is_event else "metadata")
        named = [f"{text} {kind_of(file.uri)}" for text, file in zip(contents, files, strict=True)]
        parser = LineParser(kind, settings, schema, partial(read, self.space.spark))
        return parsed_rows(self.space, parser, named)

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
