"""The H nearest items of each item (Eq. 4-5) among the cells nearest to it.

m queries, w candidates, d width. A cell is searched exactly: candidates are proposed in float32,
then compared in float64 and ordered by (-similarity, item); where float32 does not settle the H-th
place, more are proposed. It stops at WIDEST: where more than that lie within float32's error of the
H-th, its order stands. With every cell searched the result is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from etl.graph.cells import Cells, Shard
from etl.graph.flat_search import nearest
from etl.spark.blocks import block_ranges, map_blocks
from etl.spark.vector_table import Vectors
from mdsrec.arrays import Ints

Matrix = npt.NDArray[np.float64]

SPARE = 8  # candidates beyond H + 1 at first
WIDEST = 1024  # candidates that are compared in float64 at most
QUERIES = 1024  # sought together
PAIRS = 1024  # compared in float64 together
FOUND = "part int, items binary, neighbors binary, similarities binary"


@dataclass(frozen=True)
class Search:
    """`count` neighbours are sought in the `overlap` cells nearest to an item."""

    cells: Cells
    count: int
    overlap: int


def neighbors(
    spark: SparkSession, search: Search, items_per_part: int, num_tasks: int
) -> DataFrame:
    """DataFrame(part, items, neighbors, similarities): packed lists of some items of a part.

    A list has `count` int32 neighbours and float32 similarities, filled up with -1 where the cells
    hold fewer.
    """
    cells = len(search.cells)
    search_cell = partial(_search_cell, search, items_per_part)
    return map_blocks(spark, cells, search_cell, FOUND, max(num_tasks, cells // 4))


def lists_of(search: Search, queries: Shard) -> tuple[Ints, Ints, Matrix]:
    """All items of a shard [n], their neighbours and the similarities of these [n, count]."""
    found, similarities = nearest_items(search, queries.vectors, search.count + 1 + SPARE)
    query = np.repeat(np.arange(len(queries.vectors)), np.diff(queries.starts))
    lists = found[query]
    itself = lists == queries.items[:, None]
    others = np.argsort(itself, axis=1, kind="stable")[:, : search.count]
    return (
        queries.items,
        np.take_along_axis(lists, others, 1),
        np.take_along_axis(similarities[query], others, 1),
    )


def nearest_items(search: Search, vectors: Vectors, width: int) -> tuple[Ints, Matrix]:
    """The count + 1 items of highest cosine in the cells of each vector, the item itself among
    them, and the cosines; -1 and -inf where there are fewer. `width` candidates are proposed.
    """
    num_vectors, d = vectors.shape
    kept = search.count + 1
    items = np.full((num_vectors, kept), -1, np.int64)
    cosines = np.full((num_vectors, kept), -np.inf)
    margin = 2 * (d + 2) * 2.0**-24  # what float32 can err in two cosines, and more
    unsettled = []
    together = max(1, QUERIES * (kept + SPARE) // width)
    for first, last in block_ranges(num_vectors, together):
        candidates = proposed(search, vectors[first:last], width)
        found = rescored(search.cells, candidates, vectors[first:last], kept)
        items[first:last], cosines[first:last] = found
        beyond = candidates.products.min(axis=1) + margin  # no other row has a higher cosine
        unsettled.append(first + np.flatnonzero(cosines[first:last, -1] <= beyond))
    again = np.concatenate(unsettled) if unsettled else np.empty(0, np.int64)
    if len(again) and width < WIDEST:
        wider = min(4 * width, WIDEST)
        items[again], cosines[again] = nearest_items(search, vectors[again], wider)
    return items, cosines


@dataclass
class Candidates:
    """The best rows of each query by their float32 product; -inf where there are fewer than w."""

    shards: list[tuple[int, int]]  # cell, number
    products: Vectors  # [m, w]
    shard: Ints  # [m, w], a place in `shards`
    row: Ints  # [m, w]


def proposed(search: Search, vectors: Vectors, width: int) -> Candidates:
    """The `width` best rows of the cells nearest to each vector."""
    shape = len(vectors), width
    none = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    best = Candidates([], *none)
    cells = nearest(vectors, search.cells.centroids, search.overlap)[1]
    for cell in np.unique(cells):
        queries = np.flatnonzero((cells == cell).any(axis=1))
        for number in range(search.cells.num_shards[cell]):
            shard = search.cells.shard(int(cell), number)
            products, rows = nearest(vectors[queries], shard.vectors, width)
            _offer(best, queries, products, np.full_like(rows, len(best.shards)), rows)
            best.shards.append((int(cell), number))
    return best


def _offer(best: Candidates, queries: Ints, products: Vectors, shard: Ints, row: Ints) -> None:
    width = best.products.shape[1]
    merged = np.hstack([best.products[queries], products])
    kept = np.argpartition(-merged, width - 1, axis=1)[:, :width]
    for held, offered in ((best.products, products), (best.shard, shard), (best.row, row)):
        held[queries] = np.take_along_axis(np.hstack([held[queries], offered]), kept, 1)


def rescored(
    cells: Cells, candidates: Candidates, vectors: Vectors, kept: int
) -> tuple[Ints, Matrix]:
    """The `kept` items of highest cosine in float64, ties by item; -1 and -inf fill up.

    A candidate row stands for the items that share it, of which the lowest `kept` count.
    """
    found = []
    for number, place_of_shard in enumerate(candidates.shards):
        of_shard = (candidates.shard == number) & np.isfinite(candidates.products)
        query, place = np.nonzero(of_shard)
        if not len(query):
            continue
        shard = cells.shard(*place_of_shard)
        row = candidates.row[query, place]
        entry, item = shard.items_of(row, kept)
        found.append((query[entry], _cosines(vectors, query, shard.vectors, row)[entry], item))
    query, cosine, item = (np.concatenate(column) for column in zip(*found, strict=True))
    return top_items(query, cosine, item, len(vectors), kept)


def _cosines(vectors: Vectors, query: Ints, candidates: Vectors, row: Ints) -> Matrix:
    """Of each pair in float64, summed in one order: equal rows get equal bits, which BLAS does not
    promise.
    """
    cosine = np.empty(len(query))
    for first, last in block_ranges(len(query), PAIRS):
        ours = vectors[query[first:last]].astype(np.float64)
        theirs = candidates[row[first:last]].astype(np.float64)
        np.einsum("pd,pd->p", ours, theirs, out=cosine[first:last])
    return cosine


def top_items(
    query: Ints, similarity: Matrix, item: Ints, num_queries: int, kept: int
) -> tuple[Ints, Matrix]:
    """The first `kept` items of each query by (-similarity, item), -1 and -inf filling up."""
    by_query = np.argsort(query.astype(np.min_scalar_type(num_queries)), kind="stable")
    query = query[by_query]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    width = max(kept, int(place.max(initial=0)) + 1)
    items = np.full((num_queries, width), -1, np.int64)
    similarities = np.full((num_queries, width), -np.inf)
    items[query, place], similarities[query, place] = item[by_query], similarity[by_query]
    order = np.argsort(-similarities, axis=1)
    ordered = np.take_along_axis(similarities, order, 1)
    equal = (ordered[:, 1:] == ordered[:, :-1]) & np.isfinite(ordered[:, 1:])
    tied = np.flatnonzero(equal.any(axis=1))
    order[tied] = np.lexsort((items[tied], -similarities[tied]), axis=1)
    best = order[:, :kept]
    return np.take_along_axis(items, best, 1), np.take_along_axis(similarities, best, 1)


def _search_cell(search: Search, items_per_part: int, cell: int) -> Iterator[pa.RecordBatch]:
    for queries in search.cells.shards(cell):
        items, lists, similarities = lists_of(search, queries)
        part = items // items_per_part
        order = np.argsort(part, kind="stable")
        parts, starts = np.unique(part[order], return_index=True)
        groups = np.split(order, starts[1:])
        columns = [
            pa.array(parts.astype(np.int32)),
            _packed(items.astype(np.int32), groups),
            _packed(lists.astype(np.int32), groups),
            _packed(similarities.astype(np.float32), groups),
        ]
        names = ["part", "items", "neighbors", "similarities"]
        yield pa.RecordBatch.from_arrays(columns, names)


def _packed(values: npt.NDArray[np.generic], groups: Sequence[Ints]) -> pa.Array:
    return pa.array([values[group].tobytes() for group in groups], pa.binary())
