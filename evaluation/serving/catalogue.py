"""Ids and titles of all items."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mdsrec import schema, tables
from mdsrec.arrays import Counts
from mdsrec.config import Experiment

COLUMNS = ["item_id", "title", "num_train"]
EXPORTED = pa.schema(
    {"item_id": pa.large_string(), "title": pa.large_string(), "num_train": "int64"}
)
ROW_GROUP = 1 << 20  # rows


@dataclass(frozen=True)
class Catalogue:
    """Id, title and number of training events of every item, in the order of the items."""

    item_ids: pa.LargeStringArray
    titles: pa.LargeStringArray
    num_train: Counts

    @classmethod
    def read(cls, experiment: Experiment) -> Self:
        """Read the table `items` of the experiment's data set."""
        uri = tables.table_uri(experiment.root, "items")
        return cls.of(tables.read_table(uri, schema.ITEMS, COLUMNS))

    @classmethod
    def of(cls, rows: pa.Table) -> Self:
        """Return the catalogue in the columns COLUMNS of a table.

        Each column becomes one array: `take` would join several at every call. It is large, as the
        titles of all items may have more bytes than a string array can address.
        """
        item_ids, titles = (
            rows[name].cast(pa.large_string()).combine_chunks() for name in COLUMNS[:2]
        )
        return cls(item_ids, titles, rows["num_train"].to_numpy())

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def item_of_id(self) -> dict[str, int]:
        """Return the item of each id."""
        return {item_id: item for item, item_id in enumerate(self.item_ids.to_pylist())}


def write_catalogue(experiment: Experiment, stream: BinaryIO) -> None:
    """Write the catalogue as Parquet, one row group at a time."""
    with pq.ParquetWriter(pa.PythonFile(stream, "w"), EXPORTED, compression="zstd") as writer:
        for rows in _row_groups(_stream(experiment)):
            writer.write_table(rows, ROW_GROUP)


def first_item_id(experiment: Experiment) -> str:
    """Return the id of item 0."""
    item_id: str = next(_stream(experiment)).column(0)[0].as_py()
    return item_id


def _stream(experiment: Experiment) -> Iterator[pa.RecordBatch]:
    uri = tables.table_uri(experiment.root, "items")
    return tables.stream_table(uri, tables.open_table(uri), schema.ITEMS, COLUMNS)


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield all rows in tables of ROW_GROUP rows, the last one shorter."""
    waiting = EXPORTED.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.table(batch).cast(EXPORTED)])
        while len(waiting) >= ROW_GROUP:
            yield waiting[:ROW_GROUP].combine_chunks()
            waiting = waiting[ROW_GROUP:]
    if len(waiting):
        yield waiting.combine_chunks()
