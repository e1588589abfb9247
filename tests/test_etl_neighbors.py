"""Neighbors (Eq. 4-5) against float64 brute force, by the functions that run in a Spark task."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.graph import cells, flat_search, neighbors, recall
from etl.graph.cells import Cells, target_num_cells
from etl.graph.neighbors import (
    SPARE_CANDIDATES,
    Search,
    _batches,
    nearest_items,
    neighbors_of_shard,
)
from etl.graph.recall import ExactSample, choose_overlap, count_hits
from etl.graph.unit_vectors import SmoothedVectors, UnitVectors, unit_rows
from etl.spark.vector_table import ItemTable, VectorTable, vector_rows
from mdsrec.errors import InputError

WIDTH = 5


def id_batches(*numbers):
    return iter([pa.RecordBatch.from_pydict({"id": pa.array(numbers, pa.int64())})])


def write_cells(folder, vectors, centroids):
    """Write the cells of `vectors` [n, d], of items 0, 2, 4, ..., as Spark's tasks do."""
    folder.mkdir(exist_ok=True)
    items = 2 * np.arange(len(vectors))
    pq.write_table(vector_rows(items, vectors), folder / "part.parquet")
    table = ItemTable.uncommitted(str(folder), vector_rows(items, vectors).schema)
    unit = UnitVectors(SmoothedVectors(VectorTable(table, WIDTH), None, 0.0), None)
    blocks = [(0, 100), (100, 2 * len(vectors))]
    parts = [part for n in (0, 1) for part in cells._assign_block(unit, blocks, centroids, n)]
    rows = [row for part in parts for row in part.to_pylist()]
    rows.sort(key=lambda row: (row["cell"], row["block"]))
    batch = pa.RecordBatch.from_pylist(rows)
    written = cells._write_shards(str(folder), WIDTH, iter([batch]))
    shards = dict(row.values() for part in written for row in part.to_pylist())
    return Cells(str(folder), centroids, tuple(shards.get(c, 0) for c in range(len(centroids))))


def all_lists(search):
    """Return {item: (neighbors, similarities)} of every cell."""
    found = {}
    for cell in range(len(search.cells)):
        for shard in search.cells.shards(cell):
            for item, *lists in zip(*neighbors_of_shard(search, shard), strict=True):
                found[int(item)] = lists
    return found


def brute_force(vectors, count):
    """Return for items 0, 2, 4, ... the first `count` others by (-cosine, item), in float64."""
    unit = unit_rows(vectors.astype(np.float64)).astype(np.float32).astype(np.float64)
    found = {}
    for query in range(len(unit)):
        cosine = (unit * unit[query]).sum(1)
        order = sorted((r for r in range(len(unit)) if r != query), key=lambda r: (-cosine[r], r))
        found[2 * query] = [2 * r for r in order[:count]], cosine[order[:count]]
    return found


def random_vectors(n=200, seed=0):
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)


def centroids(k, seed=1):
    return unit_rows(random_vectors(k, seed).astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 199])
@pytest.mark.parametrize("num_cells", [1, 6])
def test_a_search_of_all_cells_equals_brute_force_with_many_duplicates(tmp_path, num_cells, count):
    vectors = random_vectors()
    vectors[100:190] = vectors[3]
    stored = write_cells(tmp_path / "cells", vectors, centroids(num_cells))
    found = all_lists(Search(stored, count, num_cells))
    expected = brute_force(vectors, count)
    assert found.keys() == expected.keys()
    for item, (neighbor_items, cosines) in expected.items():
        assert found[item][0].tolist() == neighbor_items
        np.testing.assert_allclose(found[item][1], cosines, rtol=1e-12)


def test_lists_do_not_depend_on_the_shards_of_a_cell(tmp_path, monkeypatch):
    vectors = random_vectors()
    vectors[50:60] = vectors[150]  # shared by two shards
    whole = all_lists(Search(write_cells(tmp_path / "whole", vectors, centroids(3)), 9, 2))
    monkeypatch.setattr(cells, "SHARD_BYTES", 10 * 4 * WIDTH)
    cut = write_cells(tmp_path / "cut", vectors, centroids(3))
    assert max(cut.num_shards) > 1
    for item, (neighbor_items, cosines) in all_lists(Search(cut, 9, 2)).items():
        np.testing.assert_array_equal(neighbor_items, whole[item][0])
        np.testing.assert_array_equal(cosines, whole[item][1])


def test_near_ties_that_float32_cannot_order_are_ordered_in_float64(tmp_path):
    vectors = np.ones((300, WIDTH), np.float32) + 1e-5 * random_vectors(300)
    stored = write_cells(tmp_path / "cells", vectors, centroids(1))
    found = all_lists(Search(stored, 4, 1))
    for item, (neighbor_items, _) in brute_force(vectors, 4).items():
        assert found[item][0].tolist() == neighbor_items


def test_a_cell_with_too_few_items_gives_a_short_list(tmp_path):
    vectors = np.array([[1, 0, 0, 0, 0], [2, 1, 0, 0, 0], [-1, 0, 0, 0, 0]], np.float32)
    axes = np.array([[1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]], np.float32)
    found = all_lists(Search(write_cells(tmp_path / "cells", vectors, axes), 2, 1))
    assert {item: lists.tolist() for item, (lists, _) in found.items()} == {
        0: [2, -1],
        2: [0, -1],
        4: [-1, -1],
    }


def test_the_recall_of_the_sample_is_that_of_the_search(tmp_path):
    vectors, count = random_vectors(400), 10
    stored = write_cells(tmp_path / "cells", vectors, centroids(8))
    items = np.arange(0, 800, 2)
    unit = unit_rows(vectors.astype(np.float64)).astype(np.float32)
    sample = exact_sample(stored, items, unit, count)
    expected = brute_force(vectors, count)
    np.testing.assert_allclose(sample.floor, [expected[i][1][-1] for i in items], atol=1e-6)
    for overlap in (1, 3, 8):
        found = all_lists(Search(stored, count, overlap))
        shared = [len({*found[i][0].tolist()} & {*expected[i][0]}) / count for i in items]
        assert sample.recall(overlap) == pytest.approx(np.mean(shared), abs=1e-9)
        lists = np.stack([found[i][1] for i in items])
        assert count_hits(sample, items, lists) == (round(sum(shared) * count), 400 * count)


def exact_sample(stored, items, unit, count):
    """Return the exact neighbors, from one task for all cells."""
    (part,) = recall._search_cells(stored, items, unit, count, id_batches(*range(len(stored))))
    row = part.to_pylist()[0]
    return ExactSample.of(stored, items, unit, [(row["cells"], row["similarities"])], count)


def test_the_fewest_cells_that_reach_the_recall_are_chosen():
    sample = ExactSample(np.arange(2), np.zeros(2), np.array([[0, 0, 1, 2], [0, 1, 1, 0]]))
    assert [sample.recall(n) for n in (1, 2, 3)] == [4 / 8, 7 / 8, 1]
    assert choose_overlap(sample, 5, 0.5, 5, "x") == 2  # with a margin of 0.01
    assert choose_overlap(sample, 5, 0.8, 5, "x") == 2
    assert choose_overlap(sample, 5, 0.9, 5, "x") == 3
    assert choose_overlap(sample, 5, 0.875, 2, "x") == 2
    with pytest.raises(InputError, match=r"x: 2 of 5 cells hold 0\.875 .*min_recall is 0\.9:"):
        choose_overlap(sample, 5, 0.9, 2, "x")


def test_a_cell_with_too_much_of_the_sample_is_split(monkeypatch):
    tails = np.random.default_rng(0).standard_t(1.2, size=(2000, WIDTH))
    sample = unit_rows(tails).astype(np.float32)

    def largest(found):
        return np.bincount((sample @ found.T).argmax(axis=1)).max() / (len(sample) / 100)

    monkeypatch.setattr(cells, "SPLIT_ABOVE", 1e9)
    assert largest(cells.train_centroids(sample, 100)) > 3
    monkeypatch.setattr(cells, "SPLIT_ABOVE", 2)
    found = cells.train_centroids(sample, 100)
    assert largest(found) <= 2 and len(found) > 100
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_large_clustering_searches_on_the_gpu_of_the_process(monkeypatch):
    rows = np.random.default_rng(0).random((64, 4), np.float32)
    expected = flat_search.kmeans(rows, 3, 5)
    faiss, moved = flat_search._faiss(), []

    def move(resources, device, index):
        moved.append((resources, device, index.d))
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", move, raising=False)
    monkeypatch.setattr(flat_search, "_gpu_resources", lambda: "resources")
    monkeypatch.setattr(flat_search, "gpu_of_task", lambda num_gpus: num_gpus - 1)
    assert np.array_equal(flat_search.kmeans(rows, 3, 5), expected) and moved == []
    monkeypatch.setattr(flat_search, "GPU_DISTANCES", 3 * 64)
    assert np.array_equal(flat_search.kmeans(rows, 3, 5), expected)
    assert moved == [("resources", 1, 4)]


def test_many_near_copies_are_spread_over_cells():
    rng = np.random.default_rng(0)
    copies = np.array([1, 0, 0, 0, 0]) + 0.01 * rng.normal(size=(900, WIDTH))
    sample = unit_rows(np.concatenate([copies, rng.normal(size=(100, WIDTH))])).astype(np.float32)
    found = cells.train_centroids(sample, 20)
    home = (sample @ found.T).argmax(axis=1)
    assert np.bincount(home).max() <= cells.SPLIT_ABOVE * len(sample) / 20
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_more_candidates_do_not_change_a_list(tmp_path):
    vectors = random_vectors()
    search = Search(write_cells(tmp_path / "cells", vectors, centroids(4)), 5, 2)
    unit = unit_rows(vectors.astype(np.float64)).astype(np.float32)
    narrow, wide = (
        nearest_items(search, unit, 6 + spare)
        for spare in (SPARE_CANDIDATES, neighbors.MAX_CANDIDATES)
    )
    np.testing.assert_array_equal(narrow[0], wide[0])
    np.testing.assert_array_equal(narrow[1], wide[1])


def test_work_per_item_stays_near_constant_as_the_number_of_cells_grows():
    few, many = 1000 * 1024, 4096 * 1024
    assert [target_num_cells(n) for n in (1, 1023, few, few + 1, many)] == [1, 1, 1000, 1000, 4096]
    cells = target_num_cells(16 * many)
    assert cells == 4 * 4096  # the square root of 16
    assert 16 * many / cells == 4 * 1024  # items of a cell
    assert target_num_cells(48_200_000) == 13_885


def test_many_items_with_one_vector_go_through_spark_in_bounded_batches(monkeypatch):
    items = np.arange(100)
    lists = np.tile(np.arange(5), (100, 1))
    monkeypatch.setattr(neighbors, "BATCH_BYTES", 4 * 5 * 30)  # 30 lists
    found = list(_batches(items, lists, lists / 10, items_per_part=10))
    sizes = [sum(map(len, batch.column("items").to_pylist())) // 4 for batch in found]
    assert sum(sizes) == 100 and max(sizes) < 30 + 10
    back = [np.frombuffer(b, np.int32) for batch in found for b in batch["items"].to_pylist()]
    np.testing.assert_array_equal(np.concatenate(back), items)
