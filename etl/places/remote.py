"""Remote neighbors: those whose item belongs to another shard than the item that lists them.

Shards are equal ranges of places here: shard r of S begins at X r // S. The shards of a smaller S
are unions of those of MOST, so a byte an item is enough to count for every S.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import SparkSession

from etl.spark.blocks import block_ranges, map_blocks
from etl.spark.vector_table import ItemTable
from mdsrec import schema
from mdsrec.arrays import Counts, Floats, Ints

SHARDS = (2, 8, 64)  # numbers of shards that are counted; each divides the last
MOST = SHARDS[-1]
LISTS_AT_A_TIME = 1 << 16
COUNTED = "neighbors long, by_place array<long>, by_item array<long>"

Owners = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RemoteShares:
    """Shares of remote neighbors at SHARDS, for the order by place and that by item."""

    nearest: int  # neighbors of an item that were counted
    by_place: Floats
    by_item: Floats

    @property
    def counters(self) -> dict[str, float]:
        """Return the shares as counters of a manifest."""
        named = (("remote_at", self.by_place), ("remote_by_item_at", self.by_item))
        return {"nearest_counted": self.nearest} | {
            f"{name}_{number}_shards": round(float(share), 4)
            for name, shares in named
            for number, share in zip(SHARDS, shares, strict=True)
        }

    def __str__(self) -> str:
        numbers = ", ".join(map(str, SHARDS))
        places, items = (
            ", ".join(f"{share:.3f}" for share in shares)
            for shares in (self.by_place, self.by_item)
        )
        return (
            f"of the {self.nearest} nearest neighbors {places} are remote at {numbers} shards, "
            f"{items} in the order of items"
        )


def owners_of(places: Ints, num_items: int) -> Owners:
    """Return which of MOST shards owns each place."""
    return (((places.astype(np.int64) + 1) * MOST - 1) // num_items).astype(np.uint8)


def read_owners(version: str, num_items: int) -> Owners:
    """Return the owner of each item, from the uncommitted table of places in `version`."""
    table, owners = ItemTable.uncommitted(version, schema.PLACES), np.empty(num_items, np.uint8)
    for first, last in block_ranges(num_items, LISTS_AT_A_TIME):
        places = table.read(first, last, ["item", "place"]).column("place").to_numpy()
        owners[first:last] = owners_of(places, num_items)
    return owners


def listed_pairs(rows: pa.Table, nearest: int) -> tuple[Ints, Ints]:
    """Return the items and the neighbors of the `nearest` first places of each list [pairs]."""
    lists = rows.column("neighbors").combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    rank = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = np.repeat(rows.column("item").to_numpy(), lengths)
    return items[rank < nearest], lists.flatten().to_numpy()[rank < nearest]


def count_remote(of_items: Owners, of_neighbors: Owners) -> Counts:
    """Return how many pairs have two owners, for each of SHARDS."""
    merged = [MOST // number for number in SHARDS]  # shards of MOST that become one
    return np.array([(of_items // m != of_neighbors // m).sum() for m in merged], np.int64)


def measure_remote(
    spark: SparkSession, lists: Sequence[ItemTable], nearest: int, owners: Owners, num_tasks: int
) -> RemoteShares:
    """Return the shares among the `nearest` of the tables `lists`, one of each modality."""
    total, by_place, by_item = 0, np.zeros(len(SHARDS)), np.zeros(len(SHARDS))
    blocks = list(block_ranges(len(owners), LISTS_AT_A_TIME))
    for table in lists:
        count = partial(_count_block, table, nearest, owners, blocks)
        for row in map_blocks(spark, len(blocks), count, COUNTED, num_tasks).collect():
            total += row.neighbors
            by_place += row.by_place
            by_item += row.by_item
    return RemoteShares(nearest, by_place / max(1, total), by_item / max(1, total))


def _count_block(
    table: ItemTable, nearest: int, owners: Owners, blocks: list[tuple[int, int]], number: int
) -> Iterator[pa.RecordBatch]:
    rows = table.read(*blocks[number], ["item", "neighbors"])
    pairs = listed_pairs(rows, nearest)
    counted = {
        "by_place": [owners[ids] for ids in pairs],
        "by_item": [owners_of(ids, len(owners)) for ids in pairs],
    }
    counts = {name: [count_remote(*of_both)] for name, of_both in counted.items()}
    yield pa.RecordBatch.from_pydict({"neighbors": [len(pairs[0])], **counts})
