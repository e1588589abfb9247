"""The items that two catalogues share, by item id.

Both tables `items` ascend by id, so they are merged as they stream: memory holds a batch of each,
and about ten bytes an item.

X items of the target, Y of the source.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.errors import InputError
from training.warm.source import ItemIds

GONE = -1  # the place of an item that the target does not have


class ItemMap(NamedTuple):
    """The target's item of each item of the source."""

    target_of: Ints  # int32 [Y], GONE where there is none
    trained: NDArray[np.bool_]  # [X], items that the source has training events of

    @property
    def carried(self) -> Ints:
        """Return the target's item of each item of the source whose row is carried, else GONE."""
        kept = self.target_of.copy()
        shared = kept != GONE
        kept[shared] = np.where(self.trained[kept[shared]], kept[shared], GONE)
        return kept

    @property
    def num_dropped(self) -> int:
        """Return how many items only the source has."""
        return int((self.target_of == GONE).sum())


class _Batch(NamedTuple):
    """Some rows of a table `items`."""

    first: int  # item
    ids: pa.Array
    num_train: Ints

    @property
    def last_id(self) -> bytes:
        return str(self.ids[-1]).encode()


def map_items(target: ItemIds, source: ItemIds) -> ItemMap:
    """Match the items of two catalogues by their ids."""
    target_of = np.full(source.manifest.rows, GONE, np.int32)
    trained = np.zeros(target.manifest.rows, np.bool_)
    batches = _batches(source)
    other = next(batches, None)
    for batch in _batches(target):
        while other is not None:
            found = pc.index_in(batch.ids, value_set=other.ids)
            shared = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
            places = found.drop_null().to_numpy()
            target_of[other.first + places] = batch.first + shared
            trained[batch.first + shared] = other.num_train[places] > 0
            if other.last_id > batch.last_id:
                break  # the next batch of the target may share items with it
            other = next(batches, None)
    return ItemMap(target_of, trained)


def _batches(items: ItemIds) -> Iterator[_Batch]:
    """Yield the rows of a table, in the order of ids. InputError if they are in another one."""
    columns, first, last = ["item_id", "num_train"], 0, b""
    for rows in tables.stream_table(items.uri, items.manifest, schema.ITEMS, columns):
        if not len(rows):
            continue
        batch = _Batch(first, rows.column(0), rows.column(1).to_numpy())
        ascends = pc.all(pc.less(batch.ids[:-1], batch.ids[1:])).as_py() is not False
        if not ascends or (first and str(batch.ids[0]).encode() <= last):
            raise InputError(f"{items.uri}: its rows are not in the order of item_id")
        yield batch
        first, last = first + len(rows), batch.last_id
