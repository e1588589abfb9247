"""Recall of the search: how many cells must be searched per item, measured on a sample.

s sampled items, H neighbors. Each searched cell is searched exactly, so a neighbor is found if and
only if its cell is among the searched ones. The exact lists of a sample therefore give the share of
neighbors found for every number of searched cells (the overlap).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from etl.graph.cells import Cells
from etl.graph.flat_search import nearest_rows
from etl.graph.neighbors import best_by_query
from etl.spark.vector_table import Vectors
from mdsrec.arrays import Floats, Ints
from mdsrec.errors import InputError

SAMPLE = 1024
MAX_TASKS = 128  # each sends the driver one list per sampled item
MARGIN = 0.01  # above the required recall, as the sample has an error
ROUNDING = 1e-6  # of a float32 cosine
FOUND = "cells binary, similarities binary"


@dataclass(frozen=True)
class ExactSample:
    """The exact neighbors of a sample of items."""

    items: Ints  # [s]
    floor: Floats  # [s], similarity of the H-th neighbor
    rank: Ints  # [s, H]: 0 if the neighbor is in the cell nearest to the item, 1 if in the next

    @classmethod
    def of(
        cls,
        cells: Cells,
        items: Ints,
        vectors: Vectors,
        parts: list[tuple[bytes, bytes]],
        count: int,
    ) -> "ExactSample":
        """Merge the results of all tasks: packed cells and similarities, `count` per item."""
        shape = len(items), count
        homes = np.hstack([np.frombuffer(home, np.int32).reshape(shape) for home, _ in parts])
        similar = np.hstack([np.frombuffer(found, np.float32).reshape(shape) for _, found in parts])
        best = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        order = nearest_rows(vectors, cells.centroids, len(cells))[1]
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(len(cells))[None, :], axis=1)
        floor = np.take_along_axis(similar, best, 1).min(axis=1)
        home = np.take_along_axis(homes, best, 1)
        return cls(items, floor, np.take_along_axis(rank, home, 1))

    def recall(self, overlap: int) -> float:
        """Return the share of the neighbors that are in the `overlap` nearest cells."""
        return float((self.rank < overlap).mean())


def search_exactly(
    spark: SparkSession, cells: Cells, items: Ints, vectors: Vectors, count: int, num_tasks: int
) -> ExactSample:
    """Search all cells for the neighbors of a sample."""
    numbers = spark.range(0, len(cells), numPartitions=min(num_tasks, len(cells), MAX_TASKS))
    rows = numbers.mapInArrow(partial(_search_cells, cells, items, vectors, count), FOUND).collect()
    return ExactSample.of(cells, items, vectors, [tuple(row) for row in rows], count)


def choose_overlap(
    sample: ExactSample, num_cells: int, min_recall: float, max_overlap: int, name: str
) -> int:
    """Return the fewest cells whose recall exceeds `min_recall` by a margin.

    InputError if `max_overlap` cells do not reach `min_recall`.
    """
    max_overlap = min(max_overlap, num_cells)
    for overlap in range(1, max_overlap + 1):
        if sample.recall(overlap) >= min(min_recall + MARGIN, 1):
            return overlap
    recall = sample.recall(max_overlap)
    if recall < min_recall:
        raise InputError(
            f"{name}: {max_overlap} of {num_cells} cells hold {recall:.3f} of the exact neighbors, "
            f"graph.min_recall is {min_recall}: raise graph.max_overlap, lower graph.min_recall, "
            'or set graph.search = "exact"'
        )
    return max_overlap


def count_hits(sample: ExactSample, items: Ints, similarities: Floats) -> tuple[int, int]:
    """Return (neighbors found, exact neighbors) of the sampled items among `items`.

    `similarities` [n, H] are those of the lists that the search returned.
    """
    sampled = np.isin(items, sample.items)
    floor = sample.floor[np.searchsorted(sample.items, items[sampled])]
    found = similarities[sampled] >= floor[:, None] - ROUNDING
    return int(found.sum()), found.size


def _search_cells(
    cells: Cells, items: Ints, vectors: Vectors, count: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Search the task's cells -> for every sampled item the best similarities and cells [s, H]."""
    similar = np.full((len(items), count), -np.inf)
    home = np.zeros((len(items), count), np.int64)
    for batch in batches:
        for cell in batch.column("id").to_pylist():
            for shard in cells.shards(cell):
                products, rows = nearest_rows(vectors, shard.vectors, count + 1)
                entry, item = shard.items_of(rows.ravel(), count + 1)
                query = entry // rows.shape[1]
                cosine = products.ravel()[entry].astype(np.float64)
                better = (item != items[query]) & (cosine > similar[query, -1])
                item, query, cosine = item[better], query[better], cosine[better]
                _, found = best_by_query(query, cosine, item, len(items), count)
                both = np.hstack([similar, found])
                best = np.argsort(-both, axis=1, kind="stable")[:, :count]
                similar = np.take_along_axis(both, best, 1)
                home = np.take_along_axis(np.hstack([home, np.full_like(home, cell)]), best, 1)
    packed = {
        "cells": [home.astype(np.int32).tobytes()],
        "similarities": [similar.astype(np.float32).tobytes()],
    }
    yield pa.RecordBatch.from_pydict(packed)
