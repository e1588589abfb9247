"""k-means on a modality's vectors (Eq. 10)."""

import numpy as np

from etl.centers import assigned, clustered, repaired


def vectors(n=300, d=6):
    return np.random.default_rng(1).normal(size=(n, d)).astype(np.float32)


def test_the_same_seed_gives_the_same_centres():
    first, again = clustered(vectors(), 8), clustered(vectors(), 8)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_separate_groups_become_separate_centres():
    groups = np.repeat(np.eye(4, dtype=np.float32) * 10, 25, axis=0)
    center, _ = clustered(groups, 4)
    assert [len(set(center[25 * g : 25 * (g + 1)])) for g in range(4)] == [1] * 4
    assert len(set(center)) == 4


def test_no_centre_is_empty_even_with_fewer_distinct_rows_than_centres():
    same = np.ones((10, 3), dtype=np.float32)
    center, centroids = clustered(same, 6)
    assert set(center) == set(range(6))
    assert centroids.shape == (6, 3)


def test_an_empty_centre_takes_the_farthest_row():
    rows = np.array([[0.0], [1.0], [9.0], [50.0]], dtype=np.float32)
    centroids = np.array([[0.0], [50.0], [1000.0]], dtype=np.float32)
    center, distance = assigned(rows, centroids)
    assert center.tolist() == [0, 0, 0, 1]
    center, centroids = repaired(rows, centroids, center, distance)
    assert center.tolist() == [0, 0, 2, 1]
    assert centroids[2] == rows[2]
