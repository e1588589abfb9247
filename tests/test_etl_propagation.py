"""N(O) E (Eq. 3) against dense float64, by the functions that run inside a Spark task."""

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.graph import tiles as tiles_module
from etl.graph.propagation import Propagation, write_product
from etl.graph.tiles import Tiles, plan_tiles, unpack
from etl.graph.unit_vectors import SmoothedVectors, UnitVectors, in_sample
from etl.spark import blocks
from etl.spark.blocks import block_ranges
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


def tiles(width, files, files_per_span, num_slices):
    """Return tiles of a catalogue whose files have `files` items each."""
    slices = block_ranges(width, -(-width // num_slices)) if width else [(0, 0)]
    return Tiles(tuple(block_ranges(NUM_ITEMS, files)), files_per_span, tuple(slices))


def slices_of(features, plan, folder):
    """Write the columns of E by slices."""
    items, vectors = features.read(0, NUM_ITEMS)
    for number, (first, last) in enumerate(plan.slices):
        rows = vector_rows(items, vectors[:, first:last])
        yield VectorTable(write_table(folder / f"slice-{number}", rows), last - first)


def multiply(product, slices=(None,)):
    """Run the tasks of all tiles -> items, rows [n, d], bytes of E that they read."""
    packed = [
        row
        for n in range(len(product.tiles.files))
        for b in product.pack(n)
        for row in b.to_pylist()
    ]
    found, num_bytes = [], 0
    for E in slices:
        parts = []
        for span in range(product.tiles.num_spans):
            here = sorted((r for r in packed if r["span"] == span), key=lambda row: row["block"])
            pieces = [(row["block"], unpack(row["entries"])) for row in here]
            items, sums, more = product.sums(product.tiles.items_of(span), E, pieces)
            parts.append(product.normalized(items, sums))
            num_bytes += more
        items, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
        found.append(rows)
    return items, np.hstack(found), num_bytes


WHOLE = tiles(WIDTH, NUM_ITEMS, 1, 1)


@pytest.mark.parametrize("normalize", ["row", "symmetric", "none"])
@pytest.mark.parametrize("plan", [WHOLE, tiles(WIDTH, 77, 2, 1)], ids=["one span", "four spans"])
def test_blocked_product_equals_the_dense_one(world, small_blocks, tmp_path, normalize, plan):
    O, E, has, graph, features, _ = world  # noqa: E741
    product = Propagation(graph, features, NUM_ITEMS, plan, normalize)
    if normalize == "symmetric":
        items, rows, num_bytes = multiply(product)
        assert num_bytes == 0  # degrees read no vectors
        degrees = VectorTable(write_table(tmp_path / "degrees", vector_rows(items, rows)), 1)
        product = replace(product, degrees=degrees)
    expected = dense(O, has, normalize) @ E
    connected = np.flatnonzero(dense(O, has, "none").sum(axis=1))
    items, rows, _ = multiply(product, (features,))
    assert 0 < len(connected) < has.sum() < NUM_ITEMS
    np.testing.assert_array_equal(items, connected)
    np.testing.assert_allclose(rows, expected[connected], rtol=1e-6, atol=1e-6)


def test_one_span_many_spans_and_two_dimensional_tiles_give_the_same_bits(
    world, small_blocks, tmp_path, monkeypatch
):
    *_, has, graph, features, _ = world
    size_of_E = 4 * WIDTH * has.sum()
    whole_items, whole, num_bytes = multiply(
        Propagation(graph, features, NUM_ITEMS, WHOLE), (features,)
    )
    assert num_bytes == size_of_E  # one span reads E once
    monkeypatch.setattr(tiles_module, "PIECE", 7)  # pieces of single rows
    monkeypatch.setattr(tiles_module, "BATCH_BYTES", 1)  # a batch for each piece
    for number, plan in enumerate([tiles(WIDTH, 50, 4, 1), tiles(WIDTH, 50, 6, 3)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        slices = list(slices_of(features, plan, folder))
        product = Propagation(graph, features, NUM_ITEMS, plan)
        items, rows, num_bytes = multiply(product, slices)
        assert len(plan) == [3, 6][number] and num_bytes == plan.num_spans * size_of_E
        np.testing.assert_array_equal(items, whole_items)
        np.testing.assert_array_equal(rows, whole)


@pytest.mark.spark
def test_tasks_of_tiles_write_the_same_bits_in_the_same_files(spark, world, tmp_path, caplog):
    *_, has, graph, features, _ = world
    caplog.set_level(logging.INFO, "etl")
    plans = [tiles(WIDTH, 100, 6, 1), tiles(WIDTH, 100, 2, 1), tiles(WIDTH, 100, 3, 2)]
    found = []
    for number, plan in enumerate(plans):
        product = Propagation(graph, features, NUM_ITEMS, plan)
        version, scratch = tmp_path / f"version-{number}", tmp_path / f"scratch-{number}"
        rows = write_product(spark, product, str(scratch), str(version), f"plan {number}")
        table = ItemTable.uncommitted(str(version), FEATURES)
        items, vectors = VectorTable(table, WIDTH).read(0, NUM_ITEMS)
        assert rows == len(items) > 0
        names = [path.name for path in sorted(version.iterdir())]
        found.append((items.tolist(), vectors.tobytes(), names))
    assert found[0] == found[1] == found[2]
    size_of_E = 4 * WIDTH * has.sum()
    counted = [record.figures["vector_bytes"] for record in caplog.records]
    assert counted == [size_of_E, 3 * size_of_E, 2 * size_of_E + size_of_E]  # slices: written once


def planned(num_items, memory, cores=2, width=64, entries_per_item=80):
    return plan_tiles(num_items, width, entries_per_item * num_items, memory, cores)


def test_reads_of_vectors_follow_from_the_memory_and_the_cores_not_from_the_number_of_items():
    for num_items in (10**5, 10**6, 5 * 10**6):
        plan = planned(num_items, memory=2700 << 20)
        assert (plan.num_spans, len(plan.slices)) == (2, 1)
    assert planned(10**6, 1 << 40).num_spans == 2  # a span per core
    assert planned(10**6, 1 << 40, cores=1).num_spans == 1
    assert planned(1000, 1 << 40).num_spans == 1  # there is only one file


def test_tiles_fit_in_the_memory_of_a_task_and_read_the_fewest_bytes():
    for memory in (512 << 20, 4 << 30):
        plan = planned(48_000_000, memory, cores=64, width=768, entries_per_item=514)
        first, last = plan.items_of(0)
        widest = max(stop - start for start, stop in plan.slices)
        assert 8 * (last - first) * (widest + 1) <= memory / 2
        assert plan.files[-1][1] == 48_000_000 and plan.slices[-1][1] == 768
        E, O = 4 * 768, 4 * 514  # noqa: E741
        rows_of_spans_only = memory // 2 // (8 * 769)
        one_dimensional = 48_000_000 / rows_of_spans_only * E + O
        assert plan.num_spans * E + len(plan.slices) * O < one_dimensional / 2
        assert 1 / 2 < plan.num_spans * E / (len(plan.slices) * O) < 2  # both shrink as they can


def test_files_depend_neither_on_memory_nor_on_cores():
    plans = [planned(10**6, memory, cores) for memory in (1 << 29, 1 << 33) for cores in (1, 9)]
    assert len({plan.files for plan in plans}) == 1 and len(set(plans)) > 1


def test_unit_vectors_are_propagated_and_have_length_one(world, tmp_path):
    O, E, has, graph, features, _ = world  # noqa: E741
    items, rows, _ = multiply(Propagation(graph, features, NUM_ITEMS, WHOLE), (features,))
    table = vector_rows(items, rows)
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
