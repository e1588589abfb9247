"""faiss inside a task: flat inner-product search and k-means, on a GPU where faiss sees one."""

import logging
from functools import cache
from typing import Any

import numpy as np
from pyspark import TaskContext

from etl.spark.spans import Ints, Vectors

SEED = 0
GPU_SCRATCH_BYTES = 256 << 20


def nearest(queries: Vectors, rows: Vectors, count: int) -> tuple[Vectors, Ints]:
    """The `count` rows of highest inner product with each query: products and row numbers, both
    [queries, min(count, rows)], best first.
    """
    faiss = _faiss()
    count = min(count, len(rows))
    metric = faiss.METRIC_INNER_PRODUCT
    if faiss.get_num_gpus():
        device = _task_number() % faiss.get_num_gpus()
        return faiss.knn_gpu(_gpu(), queries, rows, count, metric=metric, device=device)  # type: ignore[no-any-return]
    return faiss.knn(queries, rows, count, metric=metric)  # type: ignore[no-any-return]


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


def _task_number() -> int:
    context = TaskContext.get()
    return context.partitionId() if context else 0
