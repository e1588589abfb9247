"""Ids, titles and categories of all items."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evaluation.stored.categories import stream_categories
from mdsrec import schema, tables
from mdsrec.arrays import Counts
from mdsrec.config import Experiment

COLUMNS = ["item_id", "title", "num_train"]
CATEGORY = "category"  # a column of catalogues whose input has categories
EXPORTED = pa.schema(
    {"item_id": pa.large_string(), "title": pa.large_string(), "num_train": "int64"}
)
ROW_GROUP = 1 << 20  # rows


@dataclass(frozen=True)
class Catalogue:
    """Id, title, training events and category of every item, in the order of the items."""

    item_ids: pa.LargeStringArray
    titles: pa.LargeStringArray
    num_train: Counts  # training events
    categories: pa.DictionaryArray | None = None  # None if the input has none

    @classmethod
    def read(cls, experiment: Experiment) -> Self:
        """Read the tables `items` and `categories` of the experiment's data set."""
        uri = tables.table_uri(experiment.root, "items")
        rows = tables.read_table(uri, schema.ITEMS, COLUMNS)
        if categories := stream_categories(experiment.root):
            column = pa.Table.from_batches(categories)[CATEGORY]
            rows = rows.append_column(CATEGORY, column)
        return cls.of(rows)

    @classmethod
    def of(cls, rows: pa.Table) -> Self:
        """Return the catalogue in the columns COLUMNS, and perhaps CATEGORY, of a table.

        Each column becomes one array: `take` would join several at every call. It is large, as the
        titles of all items may have more bytes than a string array can address.
        """
        item_ids, titles = (
            rows[name].cast(pa.large_string()).combine_chunks() for name in COLUMNS[:2]
        )
        categories = None
        if CATEGORY in rows.column_names:
            categories = rows[CATEGORY].dictionary_encode().combine_chunks()
        return cls(item_ids, titles, rows["num_train"].to_numpy(), categories)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def item_of_id(self) -> dict[str, int]:
        """Return the item of each id."""
        return {item_id: item for item, item_id in enumerate(self.item_ids.to_pylist())}

    @cached_property
    def category_names(self) -> list[str]:
        """Return the categories that an item has, in the order of names."""
        return [] if self.categories is None else sorted(self.categories.dictionary.to_pylist())

    def in_category(self, category: str) -> NDArray[np.bool_]:
        """Return whether each item is of a category of the input -> bool [X]."""
        assert self.categories is not None
        number = self.categories.dictionary.index(category).as_py()  # -1: that of no item
        found: NDArray[np.bool_] = self.categories.indices.to_numpy() == number
        return found


def write_catalogue(experiment: Experiment, stream: BinaryIO) -> None:
    """Write the catalogue as Parquet, one row group at a time."""
    groups, exported = _row_groups(_stream(experiment), EXPORTED), EXPORTED
    if categories := stream_categories(experiment.root):
        column = pa.schema({CATEGORY: pa.string()})
        exported = pa.schema([*EXPORTED, *column])
        pairs = zip(groups, _row_groups(categories, column), strict=True)
        groups = (rows.append_column(CATEGORY, of_rows[CATEGORY]) for rows, of_rows in pairs)
    with pq.ParquetWriter(pa.PythonFile(stream, "w"), exported, compression="zstd") as writer:
        for rows in groups:
            writer.write_table(rows, ROW_GROUP)


def first_item_id(experiment: Experiment) -> str:
    """Return the id of item 0."""
    item_id: str = next(_stream(experiment)).column(0)[0].as_py()
    return item_id


def _stream(experiment: Experiment) -> Iterator[pa.RecordBatch]:
    uri = tables.table_uri(experiment.root, "items")
    return tables.stream_table(uri, tables.open_table(uri), schema.ITEMS, COLUMNS)


def _row_groups(batches: Iterator[pa.RecordBatch], rows_schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield all rows in tables of ROW_GROUP rows, the last one shorter."""
    waiting = rows_schema.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.table(batch).cast(rows_schema)])
        while len(waiting) >= ROW_GROUP:
            yield waiting[:ROW_GROUP].combine_chunks()
            waiting = waiting[ROW_GROUP:]
    if len(waiting):
        yield waiting.combine_chunks()
