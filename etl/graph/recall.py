"""How many cells an item must be sought in: measured on a sample against exact search.

s sampled items, H neighbours. As a cell is searched exactly, a neighbour is found if and only if
its cell is among the nearest ones of the item, so exact lists of the sample say for every overlap
what share of the neighbours it finds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import SparkSession

from etl.graph.cells import Cells
from etl.graph.flat_search import nearest
from etl.graph.neighbors import top_items
from etl.spark.vector_table import Vectors
from mdsrec.arrays import Ints
from mdsrec.errors import InputError

Matrix = npt.NDArray[np.float64]

SAMPLE = 1024
MOST_TASKS = 128  # each sends the driver a list of every sampled item
MARGIN = 0.01  # aimed at above what is asked for: a sample errs
ROUNDING = 1e-6  # of a float32 cosine
FOUND = "cells binary, similarities binary"


@dataclass(frozen=True)
class Truth:
    """The exact neighbours of a sample."""

    items: Ints  # [s]
    floor: Matrix  # [s], the similarity of the H-th neighbour
    rank: Ints  # [s, H]: 0 where a neighbour lies in the nearest cell of the item, 1 in the next

    @classmethod
    def of(
        cls,
        cells: Cells,
        items: Ints,
        vectors: Vectors,
        parts: list[tuple[bytes, bytes]],
        count: int,
    ) -> "Truth":
        """From the packed home cells and similarities that tasks found, `count` an item each."""
        shape = len(items), count
        homes = np.hstack([np.frombuffer(home, np.int32).reshape(shape) for home, _ in parts])
        similar = np.hstack([np.frombuffer(found, np.float32).reshape(shape) for _, found in parts])
        best = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        order = nearest(vectors, cells.centroids, len(cells))[1]
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(len(cells))[None, :], axis=1)
        floor = np.take_along_axis(similar, best, 1).min(axis=1)
        home = np.take_along_axis(homes, best, 1)
        return cls(items, floor, np.take_along_axis(rank, home, 1))

    def found_by(self, overlap: int) -> float:
        """Share of the neighbours that lie in the `overlap` nearest cells."""
        return float((self.rank < overlap).mean())


def exact_neighbors(
    spark: SparkSession, cells: Cells, items: Ints, vectors: Vectors, count: int, num_tasks: int
) -> Truth:
    """The truth about a sample, from every cell."""
    spread = spark.range(0, len(cells), numPartitions=min(num_tasks, len(cells), MOST_TASKS))
    rows = spread.mapInArrow(partial(_search_all, cells, items, vectors, count), FOUND).collect()
    return Truth.of(cells, items, vectors, [tuple(row) for row in rows], count)


def chosen_overlap(truth: Truth, num_cells: int, min_recall: float, most: int, name: str) -> int:
    """The fewest cells that find a little more than `min_recall`; InputError where `most` find
    less than it.
    """
    most = min(most, num_cells)
    for overlap in range(1, most + 1):
        if truth.found_by(overlap) >= min(min_recall + MARGIN, 1):
            return overlap
    recall = truth.found_by(most)
    if recall < min_recall:
        raise InputError(
            f"{name}: {most} of {num_cells} cells hold {recall:.3f} of the exact neighbours, "
            f"graph.min_recall is {min_recall}: raise graph.max_overlap, lower graph.min_recall, "
            'or set graph.search = "exact"'
        )
    return most


def hits(truth: Truth, items: Ints, similarities: Matrix) -> tuple[int, int]:
    """(neighbours found, neighbours there are) of the sampled items among `items`, whose lists have
    `similarities` [n, H].
    """
    sampled = np.isin(items, truth.items)
    floor = truth.floor[np.searchsorted(truth.items, items[sampled])]
    found = similarities[sampled] >= floor[:, None] - ROUNDING
    return int(found.sum()), found.size


def _search_all(
    cells: Cells, items: Ints, vectors: Vectors, count: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The best of the task's cells for every sampled item [s, H]."""
    similar = np.full((len(items), count), -np.inf)
    home = np.zeros((len(items), count), np.int64)
    for batch in batches:
        for cell in batch.column("id").to_pylist():
            for shard in cells.shards(cell):
                products, rows = nearest(vectors, shard.vectors, count + 1)
                entry, item = shard.items_of(rows.ravel(), count + 1)
                query = entry // rows.shape[1]
                cosine = products.ravel()[entry].astype(np.float64)
                better = (item != items[query]) & (cosine > similar[query, -1])
                item, query, cosine = item[better], query[better], cosine[better]
                _, found = top_items(query, cosine, item, len(items), count)
                both = np.hstack([similar, found])
                best = np.argsort(-both, axis=1, kind="stable")[:, :count]
                similar = np.take_along_axis(both, best, 1)
                home = np.take_along_axis(np.hstack([home, np.full_like(home, cell)]), best, 1)
    packed = {
        "cells": [home.astype(np.int32).tobytes()],
        "similarities": [similar.astype(np.float32).tobytes()],
    }
    yield pa.RecordBatch.from_pydict(packed)
