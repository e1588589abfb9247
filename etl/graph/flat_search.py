"""Exact inner-product search and k-means inside a task.

On a GPU the search is that of faiss. On a CPU it is a matrix product and a selection: in cells,
where a few queries meet a thousand rows, this takes half the time of faiss's flat index.
"""

import logging
from functools import cache
from typing import Any

import numpy as np

from etl.spark.blocks import block_ranges
from etl.spark.gpu import gpu_of_task
from etl.spark.vector_table import Vectors
from mdsrec.arrays import Ints

SEED = 0
MAX_GPU_COUNT = 2048  # results per query that faiss supports on a GPU
PRODUCT_BYTES = 64 << 20  # of the products in memory at a time
GPU_SCRATCH_BYTES = 256 << 20
GPU_DISTANCES = 1 << 26  # of an iteration of k-means; with fewer a CPU takes a second or less


def nearest_rows(queries: Vectors, rows: Vectors, count: int) -> tuple[Vectors, Ints]:
    """Return the inner products and numbers of the `count` rows most similar to each query.

    Both are [queries, min(count, rows)], best first.
    """
    count = min(count, len(rows))
    faiss = _faiss()
    if (num_gpus := faiss.get_num_gpus()) and count <= MAX_GPU_COUNT:
        options = {"metric": faiss.METRIC_INNER_PRODUCT, "device": gpu_of_task(num_gpus)}
        return faiss.knn_gpu(  # type: ignore[no-any-return]
            _gpu_resources(), queries, rows, count, **options
        )
    products = np.empty((len(queries), count), np.float32)
    numbers = np.empty((len(queries), count), np.int64)
    for first, last in block_ranges(len(queries), max(1, PRODUCT_BYTES // (4 * len(rows)))):
        all_products = queries[first:last] @ rows.T
        best = _largest_positions(all_products, count)
        values = np.take_along_axis(all_products, best, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        products[first:last] = np.take_along_axis(values, order, 1)
        numbers[first:last] = np.take_along_axis(best, order, 1)
    return products, numbers


def _largest_positions(products: Vectors, count: int) -> Ints:
    """Return the columns of the `count` largest products of each row, in no order."""
    if count == 1:
        return np.asarray(products.argmax(axis=1))[:, None]
    num_others = products.shape[1] - count
    return np.argpartition(products, num_others, axis=1)[:, num_others:]


def kmeans(rows: Vectors, k: int, iterations: int, spherical: bool = False) -> Vectors:
    """Return k centroids [k, d] of the rows.

    They are the same in every run: one thread and one seed. Many distances are computed on a GPU,
    if there is one.
    """
    faiss = _faiss()
    clustering = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        seed=SEED,
        spherical=spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    if (num_gpus := faiss.get_num_gpus()) and len(rows) * k >= GPU_DISTANCES:
        device = gpu_of_task(num_gpus)
        clustering.index = faiss.index_cpu_to_gpu(_gpu_resources(), device, clustering.index)
    clustering.train(np.ascontiguousarray(rows))
    return np.array(clustering.centroids, dtype=np.float32)


@cache
def _faiss() -> Any:
    """Import faiss with one thread, as parallelism comes from Spark's tasks."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


@cache
def _gpu_resources() -> Any:
    resources = _faiss().StandardGpuResources()
    resources.setTempMemory(GPU_SCRATCH_BYTES)
    return resources
