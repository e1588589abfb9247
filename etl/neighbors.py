"""Neighbours in a modality (Eq. 3-5).      n items that have it, d its width, H neighbours stored.

Ebar = E + mu N(O) E, then the H items of the highest cosine. Only items that have the modality take
part: O is restricted to them before it is normalised, so a row of N(O) sums to 1 over them, and an
item without the vector is nobody's neighbour. Similarities are computed in float64 and ordered by
(-similarity, item); faiss in float32 only proposes candidates, more of them where the float32
margin does not settle the H-th place.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from scipy import sparse

from mdsrec.files import file_system, read_bytes
from mdsrec.graph import normalized

Ints = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

BLOCK = 256  # queries searched together; the same blocks whatever the partitioning
SPARE = 32  # candidates beyond H + 1 at first
ROWS = "item int, neighbors array<int>, similarities array<float>"


def smoothed(
    item_ids: Ints, vectors: npt.NDArray[np.float32], graph: pa.Table, mu: float, normalize: str
) -> Matrix:
    """Ebar [n, d] of Eq. 3; `graph` is the co-occurrence table, read for mu > 0 only."""
    E = vectors.astype(np.float64)
    if mu == 0:
        return E
    return np.asarray(E + mu * (among(item_ids, graph, normalize) @ E))


def among(item_ids: Ints, graph: pa.Table, normalize: str) -> Any:
    """N(O) of the items given (ascending) alone, as a sparse matrix by their positions [n, n]."""
    ends = [graph.column(c).to_numpy().astype(np.int64) for c in ("item", "other")]
    places = [np.minimum(np.searchsorted(item_ids, end), len(item_ids) - 1) for end in ends]
    kept = (item_ids[places[0]] == ends[0]) & (item_ids[places[1]] == ends[1])
    rows, columns = (place[kept] for place in places)
    weights = normalized(rows, columns, graph.column("score").to_numpy()[kept], normalize)
    return sparse.csr_matrix((weights, (rows, columns)), shape=(len(item_ids), len(item_ids)))


def unit_rows(Ebar: Matrix) -> Matrix:
    """Rows of length 1; a row of zeros stays, its cosine with anything is 0."""
    norm = np.sqrt((Ebar * Ebar).sum(axis=1, keepdims=True))
    return np.asarray(np.divide(Ebar, norm, out=np.zeros_like(Ebar), where=norm > 0))


def neighbors(
    spark: SparkSession, matrix_uri: str, item_ids: Ints, count: int, num_tasks: int
) -> DataFrame:
    """DataFrame(item, neighbors, similarities) from the unit rows stored as .npy at
    `matrix_uri`.
    """
    num_blocks = -(-len(item_ids) // BLOCK)
    tasks = max(1, min(num_tasks, num_blocks))
    search = partial(_search_blocks, matrix_uri, item_ids, min(count, len(item_ids) - 1))
    return spark.range(0, num_blocks, numPartitions=tasks).mapInArrow(search, ROWS)


def nearest(unit: Matrix, queries: Ints, count: int, index: Any) -> Iterator[tuple[Ints, Matrix]]:
    """For each query row: the `count` other rows of highest cosine in float64, ties by row.
    Exact.
    """
    found: dict[int, tuple[Ints, Matrix]] = {}
    unsettled, width = queries, min(len(unit), count + 1 + SPARE)
    margin = 2 * (unit.shape[1] + 2) * 2.0**-24  # what float32 can err in a cosine, and more
    while len(unsettled):
        approximate, candidates = index.search(unit[unsettled].astype(np.float32), width)
        settled = []
        for query, similar, rows in zip(unsettled, approximate, candidates, strict=True):
            rows, exact = _rescored(unit, query, rows[rows != query], count)
            beyond = similar[-1] + margin  # no row outside the candidates comes above this
            if width == len(unit) or not count or exact[-1] > beyond:
                found[int(query)] = rows, exact
                settled.append(query)
        unsettled, width = np.setdiff1d(unsettled, settled), min(len(unit), 4 * width)
    return (found[int(query)] for query in queries)


def _rescored(unit: Matrix, query: int, rows: Ints, count: int) -> tuple[Ints, Matrix]:
    # Product and sum along each row: equal vectors get equal bits, which BLAS does not promise.
    exact = (unit[rows] * unit[query]).sum(axis=1)
    best = np.lexsort((rows, -exact))[:count]
    return rows[best], exact[best]


def save_matrix(uri: str, matrix: Matrix) -> None:
    filesystem, path = file_system(uri)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    with filesystem.open_output_stream(path) as stream:
        np.save(stream, matrix)


@lru_cache(maxsize=1)
def _searchable(uri: str) -> tuple[Matrix, Any]:
    """The unit rows and their flat inner-product index, once a worker process."""
    import faiss

    faiss.omp_set_num_threads(1)
    filesystem, path = file_system(uri)
    if filesystem.type_name == "local":
        unit = np.load(path, mmap_mode="r")
    else:
        unit = np.load(BytesIO(read_bytes(uri) or b""))
    index = faiss.IndexFlatIP(unit.shape[1])
    for start in range(0, len(unit), 1 << 16):
        index.add(unit[start : start + (1 << 16)].astype(np.float32))
    return unit, index


def _search_blocks(
    uri: str, item_ids: Ints, count: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        unit, index = _searchable(uri)
        for block in batch.column("id").to_pylist():
            queries = np.arange(block * BLOCK, min((block + 1) * BLOCK, len(unit)))
            found = list(nearest(unit, queries, count, index))
            ids = [item_ids[rows].astype(np.int32) for rows, _ in found]
            similarities = [exact.astype(np.float32) for _, exact in found]
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array(item_ids[queries].astype(np.int32)),
                    pa.array(ids, pa.list_(pa.int32())),
                    pa.array(similarities, pa.list_(pa.float32())),
                ],
                names=["item", "neighbors", "similarities"],
            )
