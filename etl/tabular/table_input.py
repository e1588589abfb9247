"""The input of `input.format = "table"`: its columns, and its rows as interactions and metadata."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TypeVar

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from etl.catalogue.items import join_sentences
from etl.catalogue.metadata import image_address, plain_text
from etl.catalogue.parsing import Record
from etl.catalogue.raw import RawFile
from etl.tabular.columns import EventColumns, ItemColumns, event_columns, item_columns
from etl.tabular.rows import Cells, ParseCells, table_rows
from etl.tabular.spark_source import load_source, source_rows
from etl.tabular.table_file import TableFile, open_table
from etl.tabular.times import TimeUnit, decide_unit, with_time
from etl.tabular.values import content_of, id_text, moment
from mdsrec.config import ColumnsConfig, InputConfig
from mdsrec.errors import InputError
from mdsrec.schema import INTERACTIONS, METADATA

log = logging.getLogger("etl")

Columns = TypeVar("Columns", EventColumns, ItemColumns)
FindColumns = Callable[[ColumnsConfig, str, Sequence[str]], Columns]

EVENTS = pa.schema(
    [field for field in INTERACTIONS if field.name != "time"]
    + [pa.field("kind", pa.string()), pa.field("micros", pa.int64())]
)


class TableInput:
    """Tables of interactions and of items, in files or in a Spark source."""

    def __init__(
        self, config: InputConfig, interactions: Sequence[RawFile], items: Sequence[RawFile]
    ) -> None:
        self.config = config
        self._interactions = interactions
        self._items = items

    @cached_property
    def interaction_files(self) -> list[TableFile]:
        return self._open(self._interactions)

    @cached_property
    def item_files(self) -> list[TableFile]:
        return self._open(self._items)

    def _open(self, files: Sequence[RawFile]) -> list[TableFile]:
        """Read the heads of files; a Spark source has none."""
        separator = self.config.separator
        return [open_table(file, separator) for file in files if self.config.source is None]

    def check_columns(self) -> None:
        """Raise InputError if a file lacks a column. What a Spark source loads is not checked."""
        if self.config.source is None:
            columns_of_files(self.config, self.interaction_files, event_columns)
            if self.item_files:
                columns_of_files(self.config, self.item_files, item_columns)

    def event_columns(self, spark: SparkSession) -> EventColumns:
        return self._columns(spark, "interactions", self.interaction_files, event_columns)

    def item_columns(self, spark: SparkSession) -> ItemColumns:
        return self._columns(spark, "items", self.item_files, item_columns)

    def interactions(self, spark: SparkSession) -> tuple[DataFrame, TimeUnit | None]:
        """Return a row of INTERACTIONS plus OUTCOME for every row, and the unit of the times."""
        return self.with_times(spark, self.events(spark).persist())

    def events(self, spark: SparkSession, positions: Sequence[int] | None = None) -> DataFrame:
        """Return a row of EVENTS plus OUTCOME for every row: its time has no unit yet.

        `positions` chooses files; then the column `file` is a position in it.
        """
        columns = self.event_columns(spark)
        log.info("interactions: columns %s", columns)
        parse = partial(_event, columns, self.config.time_unit)
        return self._rows(spark, "interactions", columns.names, parse, EVENTS, positions)

    def with_times(
        self, spark: SparkSession, events: DataFrame
    ) -> tuple[DataFrame, TimeUnit | None]:
        """Decide the unit of the times over all rows -> rows of INTERACTIONS, and the unit."""
        columns, now = self.event_columns(spark), datetime.now(UTC)
        unit = decide_unit(events, columns.time, now)
        return with_time(events, unit, now, columns), unit

    def items(self, spark: SparkSession, positions: Sequence[int] | None = None) -> DataFrame:
        """Return a row of METADATA plus OUTCOME for every row of the items, as `events` does."""
        columns = self.item_columns(spark)
        log.info("items: columns %s", columns)
        parse = partial(_item, columns)
        return self._rows(spark, "items", columns.names, parse, METADATA, positions)

    def _columns(
        self,
        spark: SparkSession,
        name: str,
        files: Sequence[TableFile],
        find: FindColumns[Columns],
    ) -> Columns:
        if self.config.source is None:
            return columns_of_files(self.config, files, find)
        table = getattr(self.config, name)[0]
        return find(self.config.columns, table, load_source(spark, self.config, table).columns)

    def _rows(
        self,
        spark: SparkSession,
        name: str,
        wanted: Sequence[str],
        parse: ParseCells,
        schema: pa.Schema,
        positions: Sequence[int] | None,
    ) -> DataFrame:
        if self.config.source is not None:
            tables = getattr(self.config, name)
            return source_rows(spark, self.config, tables, wanted, parse, schema)
        files = self.interaction_files if name == "interactions" else self.item_files
        chosen = files if positions is None else [files[position] for position in positions]
        return table_rows(spark, chosen, wanted, parse, schema)


def columns_of_files(
    config: InputConfig, files: Sequence[TableFile], find: FindColumns[Columns]
) -> Columns:
    """Return the columns of all files. InputError if a file lacks one that another has."""
    first = find(config.columns, files[0].uri, files[0].names)
    for file in files[1:]:
        if missing := [name for name in first.names if name not in file.names]:
            raise InputError(
                f"{file.uri}: no column {missing[0]!r}, which {files[0].uri} has: the files of one "
                "table need the same columns"
            )
    return first


def _event(columns: EventColumns, unit: str | None, cells: Cells) -> Record:
    """Return the row of EVENTS of one row. Raises UnusableLineError."""
    user = id_text(cells[columns.user], "user")
    item = id_text(cells[columns.item], "item")
    return {"user_id": user, "item_id": item, **moment(cells[columns.time], unit)._asdict()}


def _item(columns: ItemColumns, cells: Cells) -> Record:
    """Return the row of METADATA of one row, and its notes. Raises UnusableLineError.

    The text columns are joined as sentences in `description`.
    """
    title = None
    notes: list[str] = []
    if columns.title is not None:
        title, notes = plain_text(content_of(cells[columns.title]), is_title=True)
    texts = []
    for name in columns.text:
        text, more = plain_text(content_of(cells[name]))
        texts += [" ".join(text.split())] if text else []
        notes = notes + (more if name != columns.title else [])
    image = None if columns.image is None else image_address(content_of(cells[columns.image]))
    return {
        "item_id": id_text(cells[columns.item], "item"),
        "title": title,
        "description": join_sentences(texts) or None,
        "image_url": image,
        "notes": notes,
    }
