"""Rows of items that were never trained: means over their nearest trained neighbors.

    E_i = 1 / |M_i| sum_{m in M_i} 1 / |N_i^m| sum_{j in N_i^m} E_j

N_i^m are the first H trained items in the list of item i in the graph of modality m, and M_i the
modalities in which there is at least one. The lists are sorted by similarity, so these are the
nearest. An item with an empty M_i gets no row here.

X items, D width, H neighbors, n entries of some lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdsrec import schema, tables
from mdsrec.arrays import Ints
from training.data.shared_arrays import Array
from training.data.table_arrays import Lists, lists_of

ITEMS = 1 << 12  # whose neighbors' rows are added up at a time

Flags = NDArray[np.bool_]


class Graph(NamedTuple):
    """The table `neighbors` of a modality."""

    uri: str
    manifest: tables.Manifest

    def lists(self) -> Iterator[Lists]:
        columns = ["item", "neighbors"]
        return lists_of(tables.stream_table(self.uri, self.manifest, schema.NEIGHBORS, columns))


class Nearest(NamedTuple):
    """The nearest trained neighbors of some items, one after the other."""

    items: Ints  # those that have one
    starts: Ints  # of each in `neighbors`
    neighbors: Ints


def add_near_rows(
    rows_of: Mapping[str, Array], trained: Flags, graphs: Sequence[Graph], most: int
) -> Flags:
    """Set the rows [X, ...] of the items that are not `trained` -> which of them got one [X].

    `rows_of` has zeros there, and is changed in place. `most` is H. Of the rows, memory holds those
    of the neighbors of ITEMS items.
    """
    num_modalities = np.zeros(len(trained), np.uint8)  # |M_i|
    for graph in graphs:
        for lists in graph.lists():
            for nearest in _nearest(lists, trained, most):
                num_modalities[nearest.items] += 1
                for rows in rows_of.values():
                    rows[nearest.items] += _means(rows, nearest)
    found = num_modalities > 0
    for first in range(0, len(found), ITEMS):
        items = first + np.flatnonzero(num_modalities[first : first + ITEMS] > 1)
        for rows in rows_of.values():
            rows[items] /= num_modalities[items].reshape(-1, *[1] * (rows.ndim - 1))
    return found


def _nearest(lists: Lists, trained: Flags, most: int) -> Iterator[Nearest]:
    """Yield the nearest trained neighbors of the items that are not trained, ITEMS at a time."""
    for first in range(0, len(lists.items), ITEMS):
        part = slice(first, first + ITEMS)
        items, ends = lists.items[part], lists.ends[part]
        start = lists.ends[first - 1] if first else 0
        values = lists.values[start : ends[-1]]
        owner = np.repeat(np.arange(len(items)), np.diff(ends, prepend=start))
        kept = trained[values] & ~trained[items][owner]
        owner, values = owner[kept], values[kept]
        before = np.searchsorted(owner, owner)  # entries of the items before
        kept = np.arange(len(owner)) - before < most
        found, starts = np.unique(owner[kept], return_index=True)
        yield Nearest(items[found], starts, values[kept])


def _means(rows: Array, nearest: Nearest) -> Array:
    """Return the mean row over the neighbors of each item, added up in float64."""
    if not len(nearest.items):
        return rows[:0]
    summed = np.add.reduceat(rows[nearest.neighbors], nearest.starts, axis=0, dtype=np.float64)
    counts = np.diff(nearest.starts, append=len(nearest.neighbors))
    means: Array = summed / counts.reshape(-1, *[1] * (rows.ndim - 1))
    return means.astype(rows.dtype)
