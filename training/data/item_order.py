"""The order in which ranks own items: that of the table `places`, or else that of the items.

In sharded training an item is numbered by its place, so the items of a rank are a range of numbers.

X items, n own ones.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.table_names import places_name
from training.data.shared_arrays import Allocate, Built, Ranks, once_per_host

log = logging.getLogger("training")


@dataclass(frozen=True)
class ItemOrder:
    """Places of items."""

    place_of: Ints | None = None  # int32 [X]; None: the place of an item is the item

    def places(self, items: Ints) -> Ints:
        """Return the places of the items."""
        return items if self.place_of is None else self.place_of[items]

    def items_between(self, first: int, last: int) -> Ints:
        """Return the items at first <= place < last, in order of their places."""
        if self.place_of is None:
            return np.arange(first, last, dtype=np.int32)
        items = np.flatnonzero((self.place_of >= first) & (self.place_of < last))
        return items[np.argsort(self.place_of[items])].astype(np.int32)

    def with_places(self, batch: pa.RecordBatch, of_items: tuple[str, ...]) -> pa.RecordBatch:
        """Return the rows with places instead of items in the columns `of_items`."""
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name in of_items:
            columns[name] = self.column_with_places(columns[name])
        return pa.record_batch(list(columns.values()), batch.schema)

    def column_with_places(self, column: pa.Array) -> pa.Array:
        """Return places instead of items, or lists of places instead of lists of items."""
        if not pa.types.is_list(column.type):
            return pa.array(self.places(column.to_numpy()), column.type)
        ends = np.cumsum(column.value_lengths().to_numpy())
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        values = pa.array(self.places(column.flatten().to_numpy()), column.type.value_type)
        return pa.ListArray.from_arrays(offsets, values).cast(column.type)


def load_order(experiment: Experiment, num_items: int, ranks: Ranks) -> ItemOrder:
    """Read the table `places`, once per host. Collective.

    Without the table the order is that of the items, which costs more exchange but no correctness.
    """
    if not experiment.neighbor_modalities:
        return ItemOrder()
    uri = tables.table_uri(experiment.root, places_name(experiment))
    manifest = tables.read_manifest(uri)
    found = ranks.gather(None if manifest is None else manifest.fingerprint)
    if manifest is None or None in found:
        if ranks.rank == 0:
            log.warning(
                "%s is missing: ranks own items in their order, which needs more "
                "exchange; `mdsrec etl` builds it",
                uri,
            )
        return ItemOrder()
    if set(found) != {manifest.fingerprint} or manifest.rows != num_items:
        raise InputError(f"{uri}: made for another catalogue: {tables.ETL_FIRST}")

    def build(allocate: Allocate) -> Built:
        place_of, done = allocate(num_items, np.int32), 0
        for batch in tables.stream_table(uri, manifest, schema.PLACES, ["place"]):
            place_of[done : done + len(batch)] = batch.column(0).to_numpy()
            done += len(batch)
        return Built({"place_of": place_of}, None)

    return ItemOrder(once_per_host(build, ranks).arrays["place_of"])
