"""Ids and titles of all items."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import pyarrow as pa

from mdsrec import schema, tables
from mdsrec.arrays import Counts
from mdsrec.config import Experiment

COLUMNS = ["item_id", "title", "num_train"]


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
