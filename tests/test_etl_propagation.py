"""N(O) E (Eq. 3) against dense float64, by the functions that run inside a Spark task."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.graph.propagation import Propagation
from etl.graph.unit_vectors import SmoothedVectors, UnitVectors, in_sample
from etl.spark import blocks
from etl.spark.vector_table import ItemTable, VectorTable, vector_rows
from mdsrec.schema import COOCCURRENCE, FEATURES

NUM_ITEMS = 600  # more than two blocks of the smallest size, 256
WIDTH = 3


def write_table(folder, table, rows_per_file=250):
    folder.mkdir()
    for number, start in enumerate(range(0, table.num_rows, rows_per_file)):
        pq.write_table(table.slice(start, rows_per_file), folder / f"part-{number:05d}.parquet")
    return ItemTable.uncommitted(str(folder), table.schema)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Dense O and E, with zero rows for items without the modality, and their tables."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    half = np.triu(
        rng.random((NUM_ITEMS, NUM_ITEMS)) * (rng.random((NUM_ITEMS, NUM_ITEMS)) < 0.01), 1
    )
    O = half + half.T  # noqa: E741
    has = rng.random(NUM_ITEMS) < 0.7
    E = rng.normal(size=(NUM_ITEMS, WIDTH)).astype(np.float32) * has[:, None]
    rows, columns = np.nonzero(O)
    pairs = [rows.astype(np.int32), columns.astype(np.int32), O[rows, columns]]
    graph = write_table(folder / "graph", pa.table(pairs, schema=COOCCURRENCE), 1000)
    items = np.flatnonzero(has)
    features = VectorTable(write_table(folder / "features", vector_rows(items, E[items])), WIDTH)
    return O, E.astype(np.float64), has, graph, features, folder


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)


def dense(O, has, normalize):  # noqa: E741
    """Return N(O) over the items that have the modality."""
    O = O * has[:, None] * has[None, :]  # noqa: E741
    degree = O.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        match normalize:
            case "row":
                O = O / degree[:, None]  # noqa: E741
            case "symmetric":
                O = O / np.sqrt(degree[:, None] * degree[None, :])  # noqa: E741
    return np.nan_to_num(O)


@pytest.mark.parametrize("normalize", ["row", "symmetric", "none"])
@pytest.mark.parametrize("span", [NUM_ITEMS, 77])
def test_blocked_product_equals_the_dense_one(world, small_blocks, tmp_path, normalize, span):
    O, E, has, graph, features, _ = world  # noqa: E741
    product = Propagation(graph, features, NUM_ITEMS)
    degrees = None
    if normalize == "symmetric":
        table = vector_rows(*product.degrees(0, NUM_ITEMS))
        degrees = VectorTable(write_table(tmp_path / "degrees", table), 1)
    expected = dense(O, has, normalize) @ E
    connected = np.flatnonzero(dense(O, has, "none").sum(axis=1))
    found = [
        product.rows(normalize, degrees, first, min(first + span, NUM_ITEMS))
        for first in range(0, NUM_ITEMS, span)
    ]
    items, rows = (np.concatenate(column) for column in zip(*found, strict=True))
    assert 0 < len(connected) < has.sum() < NUM_ITEMS
    np.testing.assert_array_equal(items, connected)
    np.testing.assert_allclose(rows, expected[connected], rtol=1e-6, atol=1e-6)


def test_rows_have_the_same_bits_for_any_width_of_a_span(world, small_blocks):
    *_, graph, features, _ = world
    product = Propagation(graph, features, NUM_ITEMS)
    whole = product.rows("row", None, 0, NUM_ITEMS)[1]
    parts = [product.rows("row", None, first, first + 50)[1] for first in range(0, NUM_ITEMS, 50)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_unit_vectors_are_propagated_and_have_length_one(world, tmp_path):
    O, E, has, graph, features, _ = world  # noqa: E741
    product = Propagation(graph, features, NUM_ITEMS)
    table = vector_rows(*product.rows("row", None, 0, NUM_ITEMS))
    propagated = VectorTable(write_table(tmp_path / "propagated", table), WIDTH)
    Ebar = (E + 0.5 * dense(O, has, "row") @ E)[has]
    smoothed = SmoothedVectors(features, propagated, 0.5)
    items, rows = UnitVectors(smoothed, None).read(0, NUM_ITEMS)
    np.testing.assert_array_equal(items, np.flatnonzero(has))
    np.testing.assert_allclose(rows, Ebar / np.linalg.norm(Ebar, axis=1)[:, None], atol=1e-6)
    _, raw = UnitVectors(SmoothedVectors(features, None, 0.0), None).read(0, NUM_ITEMS)
    np.testing.assert_allclose(
        raw, (E / np.linalg.norm(E, axis=1, keepdims=True).clip(1e-9))[has], atol=1e-6
    )


def test_a_range_of_a_table_has_the_rows_of_that_range(world):
    *_, features, _ = world
    whole, vectors = features.read(0, NUM_ITEMS)
    ends = [(int(whole[place]), int(whole[place]) + 1) for place in (0, 249, 250, -1)]  # of files
    for first, last in [(0, 1), (300, 300), (590, 10_000), (100, 500), *ends]:
        items, rows = features.read(first, last)
        inside = (whole >= first) & (whole < last)
        np.testing.assert_array_equal(items, whole[inside])
        np.testing.assert_array_equal(rows, vectors[inside])


def test_an_empty_table_has_no_rows(tmp_path):
    (tmp_path / "none").mkdir()
    empty = VectorTable(ItemTable.uncommitted(str(tmp_path / "none"), FEATURES), 4)
    items, rows = empty.read(0, 10)
    assert items.shape == (0,) and rows.shape == (0, 4)


def test_a_larger_sample_contains_the_smaller_one():
    items = np.arange(10_000)
    small, large = in_sample(items, 0.1), in_sample(items, 0.3)
    assert (large | ~small).all()
    assert abs(small.mean() - 0.1) < 0.01 and in_sample(items, 1.0).all()
