"""The H nearest items of each item (Eq. 4-5), searched in the cells nearest to it.

m queries, w candidates, d width. Within a cell the search is exact: float32 proposes candidates,
which are compared in float64 and ordered by (-similarity, item). If float32 cannot settle the H-th
place, more candidates are proposed, up to MAX_CANDIDATES; if more than that lie within float32's
error of the H-th, the order of float32 decides which are compared. If all cells are searched, the
lists are exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from etl.graph.cells import Cells, CellShard
from etl.graph.flat_search import nearest_rows
from etl.spark.blocks import block_ranges, map_blocks
from etl.spark.vector_table import Vectors
from mdsrec.arrays import Floats, Ints

SPARE_CANDIDATES = 8  # at first, beyond H + 1
MAX_CANDIDATES = 1024
QUERIES_PER_BATCH = 1024
PAIRS_PER_BATCH = 1024  # of a query and a candidate, compared in float64
BATCH_BYTES = 64 << 20  # of the neighbors that go through Spark as one batch
FOUND = "part int, items binary, neighbors binary, similarities binary"


@dataclass(frozen=True)
class Search:
    """A search for `count` neighbors in the `overlap` cells nearest to an item."""

    cells: Cells
    count: int
    overlap: int


def find_neighbors(
    spark: SparkSession, search: Search, items_per_part: int, num_tasks: int
) -> DataFrame:
    """Return DataFrame(part, items, neighbors, similarities), each row some items of a part.

    The columns are packed: a list has `count` int32 neighbors and float32 similarities. Neighbor -1
    fills a list whose cells hold fewer.
    """
    num_cells = len(search.cells)
    search_cell = partial(_search_cell, search, items_per_part)
    return map_blocks(spark, num_cells, search_cell, FOUND, max(num_tasks, num_cells // 4))


def neighbors_of_shard(search: Search, queries: CellShard) -> tuple[Ints, Ints, Floats]:
    """Return all items of a shard [n], their neighbors and similarities [n, count]."""
    nearest, similarities = nearest_items(
        search, queries.vectors, search.count + 1 + SPARE_CANDIDATES
    )
    query = np.repeat(np.arange(len(queries.vectors)), np.diff(queries.starts))
    lists = nearest[query]
    is_itself = lists == queries.items[:, None]
    others = np.argsort(is_itself, axis=1, kind="stable")[:, : search.count]
    return (
        queries.items,
        np.take_along_axis(lists, others, 1),
        np.take_along_axis(similarities[query], others, 1),
    )


def nearest_items(search: Search, vectors: Vectors, num_candidates: int) -> tuple[Ints, Floats]:
    """Return the `search.count` + 1 items with the highest cosine for each vector, and the cosines.

    The item itself is among them. -1 and -inf fill a list whose cells hold fewer.
    """
    num_vectors, d = vectors.shape
    count = search.count + 1
    items = np.full((num_vectors, count), -1, np.int64)
    cosines = np.full((num_vectors, count), -np.inf)
    margin = 2 * (d + 2) * 2.0**-24  # above the float32 error of two cosines
    unsettled = []
    batch = max(1, QUERIES_PER_BATCH * (count + SPARE_CANDIDATES) // num_candidates)
    for first, last in block_ranges(num_vectors, batch):
        candidates = propose_candidates(search, vectors[first:last], num_candidates)
        rescored = rescore(search.cells, candidates, vectors[first:last], count)
        items[first:last], cosines[first:last] = rescored
        limit = candidates.products.min(axis=1) + margin  # no other row has a higher cosine
        unsettled.append(first + np.flatnonzero(cosines[first:last, -1] <= limit))
    again = np.concatenate(unsettled) if unsettled else np.empty(0, np.int64)
    if len(again) and num_candidates < MAX_CANDIDATES:
        more = min(4 * num_candidates, MAX_CANDIDATES)
        items[again], cosines[again] = nearest_items(search, vectors[again], more)
    return items, cosines


@dataclass
class Candidates:
    """The best rows of each query by float32 product; -inf if there are fewer than w."""

    shards: list[tuple[int, int]]  # cell, number
    products: Vectors  # [m, w]
    shard: Ints  # [m, w], a position in `shards`
    row: Ints  # [m, w], a row of the shard


def propose_candidates(search: Search, vectors: Vectors, num_candidates: int) -> Candidates:
    """Return the best rows of the cells nearest to each vector."""
    shape = len(vectors), num_candidates
    none = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    best = Candidates([], *none)
    cells = nearest_rows(vectors, search.cells.centroids, search.overlap)[1]
    for cell in np.unique(cells):
        queries = np.flatnonzero((cells == cell).any(axis=1))
        for number in range(search.cells.num_shards[cell]):
            shard = search.cells.shard(int(cell), number)
            products, rows = nearest_rows(vectors[queries], shard.vectors, num_candidates)
            _merge(best, queries, products, np.full_like(rows, len(best.shards)), rows)
            best.shards.append((int(cell), number))
    return best


def _merge(best: Candidates, queries: Ints, products: Vectors, shard: Ints, row: Ints) -> None:
    """Replace candidates of `queries` by better rows of another shard."""
    width = best.products.shape[1]
    merged = np.hstack([best.products[queries], products])
    kept = np.argpartition(-merged, width - 1, axis=1)[:, :width]
    for old, new in ((best.products, products), (best.shard, shard), (best.row, row)):
        old[queries] = np.take_along_axis(np.hstack([old[queries], new]), kept, 1)


def rescore(
    cells: Cells, candidates: Candidates, vectors: Vectors, count: int
) -> tuple[Ints, Floats]:
    """Return the `count` items of highest cosine in float64, ties by item; -1 and -inf fill up.

    A candidate row is shared by all items with the same vector; of these only the
    lowest `count` are compared.
    """
    found = []
    for position, (cell, number) in enumerate(candidates.shards):
        in_shard = (candidates.shard == position) & np.isfinite(candidates.products)
        query, column = np.nonzero(in_shard)
        if not len(query):
            continue
        shard = cells.shard(cell, number)
        row = candidates.row[query, column]
        entry, item = shard.items_of(row, count)
        found.append((query[entry], _cosines(vectors, query, shard.vectors, row)[entry], item))
    query, cosine, item = (np.concatenate(column) for column in zip(*found, strict=True))
    return best_by_query(query, cosine, item, len(vectors), count)


def _cosines(vectors: Vectors, query: Ints, candidates: Vectors, row: Ints) -> Floats:
    """Return the float64 cosine of each pair of a query and a candidate row.

    The order of its sum is fixed, so equal rows give equal bits; BLAS does not guarantee that.
    """
    cosine = np.empty(len(query))
    for first, last in block_ranges(len(query), PAIRS_PER_BATCH):
        left = vectors[query[first:last]].astype(np.float64)
        right = candidates[row[first:last]].astype(np.float64)
        np.einsum("pd,pd->p", left, right, out=cosine[first:last])
    return cosine


def best_by_query(
    query: Ints, similarity: Floats, item: Ints, num_queries: int, count: int
) -> tuple[Ints, Floats]:
    """Return the first `count` items of each query by (-similarity, item); -1 and -inf fill up."""
    by_query = np.argsort(query.astype(np.min_scalar_type(num_queries)), kind="stable")
    query = query[by_query]
    column = np.arange(len(query)) - np.searchsorted(query, query)
    width = max(count, int(column.max(initial=0)) + 1)
    items = np.full((num_queries, width), -1, np.int64)
    similarities = np.full((num_queries, width), -np.inf)
    items[query, column], similarities[query, column] = item[by_query], similarity[by_query]
    order = np.argsort(-similarities, axis=1)
    ordered = np.take_along_axis(similarities, order, 1)
    equal = (ordered[:, 1:] == ordered[:, :-1]) & np.isfinite(ordered[:, 1:])
    tied = np.flatnonzero(equal.any(axis=1))
    order[tied] = np.lexsort((items[tied], -similarities[tied]), axis=1)
    best = order[:, :count]
    return np.take_along_axis(items, best, 1), np.take_along_axis(similarities, best, 1)


def _search_cell(search: Search, items_per_part: int, cell: int) -> Iterator[pa.RecordBatch]:
    for queries in search.cells.shards(cell):
        yield from _batches(*neighbors_of_shard(search, queries), items_per_part)


def _batches(
    items: Ints, lists: Ints, similarities: Floats, items_per_part: int
) -> Iterator[pa.RecordBatch]:
    """Yield lists as rows of FOUND, about BATCH_BYTES at a time.

    A shard may have far more items than vectors, where many items share one.
    """
    part = items // items_per_part
    ids, near = items.astype(np.int32), lists.astype(np.int32)
    cosines = similarities.astype(np.float32)
    order = np.argsort(part, kind="stable")
    parts, starts = np.unique(part[order], return_index=True)
    groups = np.split(order, starts[1:])
    batch = starts // max(1, BATCH_BYTES // (4 * lists.shape[1]))
    for first, last in pairwise([*np.flatnonzero(np.diff(batch, prepend=-1)), len(parts)]):
        here = groups[first:last]
        columns = [
            pa.array(parts[first:last].astype(np.int32)),
            *(_pack(values, here) for values in (ids, near, cosines)),
        ]
        names = ["part", "items", "neighbors", "similarities"]
        yield pa.RecordBatch.from_arrays(columns, names)


def _pack(values: npt.NDArray[np.generic], groups: Sequence[Ints]) -> pa.Array:
    return pa.array([values[group].tobytes() for group in groups], pa.binary())
