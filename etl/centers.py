"""Interest centres: k-means on a modality's raw vectors (Eq. 10).      n items, d width, k centres.

faiss on one thread from the experiment's seed, on a sample; every item is then assigned in fixed
blocks, so equal tables give equal centres. It runs on the driver: n x d float32 must fit there.
"""

import logging

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mdsrec.schema import CENTERS, CENTROIDS

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SEED = 0  # the same centres for every seed of a training
ITERATIONS = 25
SAMPLE_PER_CENTER = 1024
BLOCK = 4096


def clustered(vectors: Vectors, k: int) -> tuple[Ints, Vectors]:
    """(center of each row, centroids [k, d]); no centre is empty. k <= n."""
    centroids = trained(vectors, k)
    center, distance = assigned(vectors, centroids)
    return repaired(vectors, centroids, center, distance)


def trained(vectors: Vectors, k: int) -> Vectors:
    """Centroids [k, d] of a sample of at most SAMPLE_PER_CENTER * k rows."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    import faiss

    faiss.omp_set_num_threads(1)
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        k,
        niter=ITERATIONS,
        seed=SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=SAMPLE_PER_CENTER,
    )
    kmeans.train(np.ascontiguousarray(vectors))
    return np.array(kmeans.centroids, dtype=np.float32)


def assigned(vectors: Vectors, centroids: Vectors) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Nearest centroid of each row, the lower one on a tie, and the squared distance to it."""
    C = centroids.astype(np.float64)
    centers, distances = [], []
    for start in range(0, len(vectors), BLOCK):
        x = vectors[start : start + BLOCK].astype(np.float64)
        squared = (x * x).sum(1)[:, None] - 2 * x @ C.T + (C * C).sum(1)
        nearest = squared.argmin(1)
        centers.append(nearest)
        distances.append(np.maximum(squared[np.arange(len(x)), nearest], 0))
    return np.concatenate(centers), np.concatenate(distances)


def repaired(
    vectors: Vectors, centroids: Vectors, center: Ints, distance: npt.NDArray[np.float64]
) -> tuple[Ints, Vectors]:
    """Each empty centre takes the row farthest from its own, out of the centres that keep
    another row.
    """
    k = len(centroids)
    center, centroids = center.copy(), centroids.copy()
    sizes = np.bincount(center, minlength=k)
    for empty in np.flatnonzero(sizes == 0):
        row = int(np.where(sizes[center] > 1, distance, -1.0).argmax())
        sizes[center[row]] -= 1
        center[row], centroids[empty], distance[row] = empty, vectors[row], 0.0
        sizes[empty] = 1
    return center, centroids


def center_rows(item_ids: Ints, center: Ints) -> pa.RecordBatch:
    columns = [pa.array(item_ids.astype(np.int32)), pa.array(center.astype(np.int32))]
    return pa.RecordBatch.from_arrays(columns, schema=CENTERS)


def centroid_rows(centroids: Vectors) -> pa.RecordBatch:
    columns = [
        pa.array(np.arange(len(centroids), dtype=np.int32)),
        pa.array(list(centroids), pa.list_(pa.float32())),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=CENTROIDS)
