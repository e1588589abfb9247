"""Flat inner-product search and k-means inside a task.

On a GPU faiss searches. On a CPU one matrix product and a selection are twice as fast as faiss's
flat index where, as in cells, few queries meet a thousand rows.
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
MOST_ON_GPU = 2048  # rows that faiss selects there
PRODUCT_BYTES = 64 << 20  # of the products that are made at a time
GPU_SCRATCH_BYTES = 256 << 20


def nearest(queries: Vectors, rows: Vectors, count: int) -> tuple[Vectors, Ints]:
    """The `count` rows of highest inner product with each query: products and row numbers, both
    [queries, min(count, rows)], best first.
    """
    count = min(count, len(rows))
    faiss = _faiss()
    if (gpus := faiss.get_num_gpus()) and count <= MOST_ON_GPU:
        on = {"metric": faiss.METRIC_INNER_PRODUCT, "device": gpu_of_task(gpus)}
        return faiss.knn_gpu(_gpu(), queries, rows, count, **on)  # type: ignore[no-any-return]
    products = np.empty((len(queries), count), np.float32)
    numbers = np.empty((len(queries), count), np.int64)
    for first, last in block_ranges(len(queries), max(1, PRODUCT_BYTES // (4 * len(rows)))):
        found = queries[first:last] @ rows.T
        best = _places_of_best(found, count)
        values = np.take_along_axis(found, best, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        products[first:last] = np.take_along_axis(values, order, 1)
        numbers[first:last] = np.take_along_axis(best, order, 1)
    return products, numbers


def _places_of_best(products: Vectors, count: int) -> Ints:
    if count == 1:
        return np.asarray(products.argmax(axis=1))[:, None]
    beaten = products.shape[1] - count
    return np.argpartition(products, beaten, axis=1)[:, beaten:]


def kmeans(rows: Vectors, k: int, iterations: int, spherical: bool = False) -> Vectors:
    """Centroids [k, d] of all the rows: one thread and one seed, so the same every time."""
    clustering = _faiss().Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        seed=SEED,
        spherical=spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    clustering.train(np.ascontiguousarray(rows))
    return np.array(clustering.centroids, dtype=np.float32)


@cache
def _faiss() -> Any:
    """faiss on one thread: tasks are what runs in parallel."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


@cache
def _gpu() -> Any:
    resources = _faiss().StandardGpuResources()
    resources.setTempMemory(GPU_SCRATCH_BYTES)
    return resources
