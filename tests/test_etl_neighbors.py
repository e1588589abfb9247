"""Eq. 3-5 against float64 brute force. No Spark: the functions that run inside a task."""

import faiss
import numpy as np
import pyarrow as pa
import pytest

from etl.neighbors import nearest, smoothed, unit_rows


def graph(pairs):
    """A co-occurrence table of both directions from {(i, j): score}."""
    rows = sorted(
        [(i, j, s) for (i, j), s in pairs.items()] + [(j, i, s) for (i, j), s in pairs.items()]
    )
    item, other, score = (list(column) for column in zip(*rows, strict=True))
    return pa.table(
        {
            "item": pa.array(item, pa.int32()),
            "other": pa.array(other, pa.int32()),
            "score": pa.array(score, pa.float64()),
        }
    )


def brute_force(unit, count):
    """For each row the `count` others by (-cosine, row), all in float64."""
    found = []
    for query in range(len(unit)):
        cosine = (unit * unit[query]).sum(1)
        order = sorted((r for r in range(len(unit)) if r != query), key=lambda r: (-cosine[r], r))
        found.append((order[:count], cosine[order[:count]]))
    return found


E = np.array([[1, 0], [0, 1], [1, 1], [2, 0]], dtype=np.float32)
ITEMS = np.array([0, 2, 3, 7])  # item 1 lacks the modality
SCORES = {(0, 2): 1.0, (0, 3): 3.0, (0, 1): 50.0, (2, 7): 4.0}


def test_row_normalisation_is_over_the_items_that_have_the_modality():
    Ebar = smoothed(ITEMS, E, graph(SCORES), 0.5, "row")
    np.testing.assert_allclose(Ebar[0], E[0] + 0.5 * (1 / 4 * E[1] + 3 / 4 * E[2]))
    np.testing.assert_allclose(Ebar[1], E[1] + 0.5 * (1 / 5 * E[0] + 4 / 5 * E[3]))


def test_symmetric_and_bare_normalisation():
    symmetric = smoothed(ITEMS, E, graph(SCORES), 0.5, "symmetric")
    expected = E[2] + 0.5 * 3 / np.sqrt(3 * 4) * E[0]
    np.testing.assert_allclose(symmetric[2], expected)
    np.testing.assert_allclose(smoothed(ITEMS, E, graph(SCORES), 2, "none")[2], E[2] + 2 * 3 * E[0])


def test_mu_zero_leaves_the_features_alone():
    np.testing.assert_array_equal(smoothed(ITEMS, E, graph(SCORES), 0.0, "row"), E)


@pytest.mark.parametrize("count", [0, 1, 7, 199])
def test_neighbours_equal_brute_force_with_many_duplicates(count):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 5))
    vectors[100:190] = vectors[3]  # far more ties than spare candidates
    vectors[50] = 0
    unit = unit_rows(vectors)
    index = faiss.IndexFlatIP(5)
    index.add(unit.astype(np.float32))
    found = list(nearest(unit, np.arange(200), count, index))
    for (rows, cosine), (expected_rows, expected_cosine) in zip(
        found, brute_force(unit, count), strict=True
    ):
        assert rows.tolist() == expected_rows
        np.testing.assert_array_equal(cosine, expected_cosine)
