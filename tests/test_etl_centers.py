"""k-means on a modality's vectors (Eq. 10). Only the last test needs Spark."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from etl.graph.centers import (
    assign_centers,
    center_sizes,
    farthest_items,
    final_centers,
    moves_to_empty,
    nearest_centroids,
    train_centroids,
)
from etl.spark.vector_table import ItemTable, VectorTable, vector_rows
from mdsrec.schema import FEATURES


def vectors(n=300, d=6):
    return np.random.default_rng(1).normal(size=(n, d)).astype(np.float32)


def test_the_same_vectors_give_the_same_centroids():
    np.testing.assert_array_equal(train_centroids(vectors(), 8), train_centroids(vectors(), 8))


def test_separate_groups_become_separate_centers():
    groups = np.repeat(np.eye(4, dtype=np.float32) * 10, 25, axis=0)
    center, distance = nearest_centroids(groups, train_centroids(groups, 4))
    assert [len(set(center[25 * g : 25 * (g + 1)])) for g in range(4)] == [1] * 4
    assert len(set(center)) == 4
    np.testing.assert_allclose(distance, 0, atol=1e-9)


def test_of_two_equally_near_centroids_the_lower_is_chosen():
    center, distance = nearest_centroids(np.zeros((1, 2)), np.array([[0, 1], [1, 0], [0, 1]]))
    assert (center[0], distance[0]) == (0, 1.0)


def test_an_empty_center_takes_the_farthest_item_whose_center_keeps_another():
    # center 0 has items 1 and 2, center 1 has only item 3, center 2 has none
    far = [(3, 1, 9.0), (2, 0, 4.0), (1, 0, 1.0)]
    assert moves_to_empty(np.array([2, 1, 0]), far) == {2: 2}
    far = [(7, 0, 5.0), (6, 0, 4.0), (5, 0, 3.0)]
    assert moves_to_empty(np.array([3, 0, 0]), far) == {7: 1, 6: 2}


@pytest.mark.spark
def test_one_pass_assigns_every_k_and_empty_centers_are_filled(spark, tmp_path):
    rows = np.array([[0.0], [1.0], [9.0], [50.0]], np.float32)
    items = np.array([2, 3, 5, 8])
    pq.write_table(vector_rows(items, rows), tmp_path / "part.parquet")
    table = VectorTable(ItemTable.uncommitted(str(tmp_path), FEATURES), 1)
    centroids = {
        2: np.array([[0.0], [50.0]], np.float32),
        3: np.array([[0.0], [50.0], [1000.0]], np.float32),
    }
    found = assign_centers(spark, table, centroids, 9, 3).localCheckpoint()
    assert center_sizes(found, 2).tolist() == [3, 1]
    assert center_sizes(found, 3).tolist() == [3, 1, 0]
    far = farthest_items(found, 3)
    assert far[0] == (5, 0, 81.0)
    moves = moves_to_empty(center_sizes(found, 3), far)
    assert moves == {5: 2}
    rows = {row.item: row.center for row in final_centers(found, 3, moves).collect()}
    assert rows == {2: 0, 3: 0, 5: 2, 8: 1}
