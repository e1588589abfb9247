"""Item tables that stream in have the bits of the plain forms, whatever batches they come in."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference_tables as plain
import torch
from small_dataset import small_experiment, write_dataset

from mdsrec import parquet_groups, schema, table_names, tables
from mdsrec.errors import InputError
from training.data import sparse, table_arrays
from training.data.item_tables import load_item_tables
from training.data.shared_arrays import zeros
from training.data.sparse import SparseMatrix
from training.data.table_arrays import lists_of, member_rows, neighbor_rows, normalized_rows

X = 57


def assert_same_bits(found: SparseMatrix, expected: SparseMatrix) -> None:
    for part in ("starts", "columns", "weights"):
        one, other = getattr(found, part), getattr(expected, part)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def batches(table: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
    return iter(table.combine_chunks().to_batches(max_chunksize=rows))


@pytest.mark.parametrize("how", ["row", "symmetric", "none"])
@pytest.mark.parametrize("rows", [1, 7, 10_000])
def test_cooccurrence_is_normalized_as_if_it_were_read_whole(how: str, rows: int) -> None:
    random = np.random.default_rng(0)
    O = np.triu(random.random((X, X)) ** 9 * (random.random((X, X)) < 0.3))  # noqa: E741
    O += O.T  # noqa: E741
    O[[0, 5, X - 1]] = O[:, [0, 5, X - 1]] = 0
    items, others = np.nonzero(O)
    scores = O[items, others]
    table = pa.table([items, others, scores], schema=schema.COOCCURRENCE)
    weights = plain.normalized_scores(items, others, scores, how)
    found = normalized_rows(partial(batches, table, rows), X, len(items), how, zeros)
    assert_same_bits(found, plain.sparse_matrix(items, others, weights, X))


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("num_neighbors", [0, 1, 3, 9])
@pytest.mark.parametrize(("rows", "block"), [(1, 100), (4, 3), (100, 5), (100, 100)])
def test_neighbors_are_cut_while_they_are_read(
    include_self: bool, num_neighbors: int, rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_arrays, "ROWS", block)
    random = np.random.default_rng(1)
    items = np.flatnonzero((random.random(X) < 0.6) & (np.arange(X) > 8) & (np.arange(X) < 50))
    lengths = random.integers(0, 6, len(items))
    values = random.integers(0, X, lengths.sum())
    lists = np.split(values, np.cumsum(lengths)[:-1])
    columns = [items, lists, [[0.0] * n for n in lengths]]
    table = pa.table(columns, schema=schema.NEIGHBORS).select(["item", "neighbors"])
    found = neighbor_rows(
        lists_of(batches(table, rows)), X, len(items), num_neighbors, include_self, zeros
    )
    expected = plain.adjacency(items, lengths, values, X, num_neighbors, include_self)
    assert_same_bits(found, expected)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_members_of_a_center_are_in_the_order_of_the_items(rows: int) -> None:
    items = np.arange(3, X)
    centers = np.random.default_rng(2).choice([0, 1, 3], len(items))  # 2 has no members
    table = pa.table([items, centers], schema=schema.CENTERS)
    found = member_rows(partial(batches, table, rows), len(items), 4, zeros)
    assert_same_bits(found, plain.membership(items, centers, 4))


@pytest.mark.parametrize(("products", "span"), [(1 << 20, 1 << 22), (40, 10), (3, 64), (1, 1)])
def test_a_product_adds_up_in_the_order_of_the_entries(
    products: int, span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "PRODUCTS", products)
    monkeypatch.setattr(sparse, "SPAN", span)
    random = np.random.default_rng(3)
    left = random.random((4, X)) * (random.random((4, X)) < 0.7)
    right = random.random((X, X)) * (random.random((X, X)) < 0.2)
    left[2], right[7] = 0, 0
    left_matrix, right_matrix = (
        plain.sparse_matrix(*np.nonzero(dense), dense[np.nonzero(dense)], len(dense))
        for dense in (left, right)
    )
    found = sparse.product(left_matrix, right_matrix, X)
    assert_same_bits(found, plain.product(left_matrix, right_matrix, X))


@pytest.mark.parametrize("model", [{}, {"item_graph": False}, {"num_neighbors": 2}])
def test_loaded_tables_equal_those_that_are_read_whole(
    tmp_path: Path, model: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small_experiment(tmp_path, model=model)
    write_dataset(experiment)
    monkeypatch.setattr(parquet_groups, "BATCH_VALUES", 9)
    loaded = load_item_tables(experiment)
    num_items = loaded.num_items

    def read(name: str, table_schema: pa.Schema) -> pa.Table:
        uri = tables.table_uri(experiment.root, name)
        return tables.read_table(uri, table_schema).combine_chunks()

    rows = read(table_names.cooccurrence_name(experiment), schema.COOCCURRENCE)
    items, others, scores = (column.to_numpy() for column in rows.columns)
    weights = plain.normalized_scores(items, others, scores, "row")
    assert loaded.cooccurrence
    assert_same_bits(loaded.cooccurrence, plain.sparse_matrix(items, others, weights, num_items))
    for name, modality in loaded.modalities.items():
        rows = read(table_names.neighbors_name(experiment, name), schema.NEIGHBORS)
        lists = rows["neighbors"].chunk(0)
        parts = rows["item"].to_numpy(), lists.value_lengths().to_numpy(), lists.flatten()
        H = experiment.model.neighbors_read
        graph = plain.adjacency(*map(np.asarray, parts), num_items, H, True)
        rows = read(table_names.centers_name(experiment, name), schema.CENTERS)
        members = plain.membership(*(column.to_numpy() for column in rows.columns), 3)
        assert modality.membership
        assert_same_bits(modality.membership, members)
        if modality.adjacency:
            assert modality.centers
            assert_same_bits(modality.adjacency, graph)
            assert_same_bits(modality.centers, plain.product(members, graph, num_items))
        if modality.features is not None:
            rows = read(table_names.features_name(name), schema.FEATURES)
            expected = torch.zeros(num_items, len(rows["vector"][0]))
            expected[torch.tensor(rows["item"].to_numpy())] = torch.tensor(
                rows["vector"].to_pylist()
            )
            assert torch.equal(modality.features, expected)


def test_a_load_holds_a_batch_of_a_row_group_and_never_the_whole(tmp_path: Path) -> None:
    num_items, stored = 200_000, 100
    neighbors = np.tile(np.arange(stored, dtype=np.int32), num_items)
    offsets = np.arange(num_items + 1, dtype=np.int32) * stored
    lists = pa.ListArray.from_arrays(offsets, neighbors)
    similar = pa.ListArray.from_arrays(offsets, np.ones(len(neighbors), np.float32))
    rows = pa.table([np.arange(num_items, dtype=np.int32), lists, similar], schema=schema.NEIGHBORS)
    version = Path(tables.new_version(str(tmp_path / "neighbors")))
    version.mkdir(parents=True)
    pq.write_table(rows, version / "part-0.parquet", row_group_size=num_items)
    uri, recipe = str(version.parent), tables.Recipe({}, {})
    manifest = tables.commit(uri, str(version), recipe, num_items)
    del rows, lists, similar
    before, most = pa.total_allocated_bytes(), 0
    for batch in tables.stream_table(uri, manifest, schema.NEIGHBORS, ["item", "neighbors"]):
        most = max(most, pa.total_allocated_bytes() - before)
        assert len(batch) * stored <= parquet_groups.BATCH_VALUES
    assert most < neighbors.nbytes / 2


def test_a_damaged_file_is_named_while_it_streams(tmp_path: Path) -> None:
    uri = str(tmp_path / "centers")
    table = pa.table({"item": [0, 1], "center": [0, 0]}, schema=schema.CENTERS)
    recipe = tables.Recipe({}, {})
    manifest = tables.write_table(uri, table.to_batches(), schema.CENTERS, recipe)
    Path(uri, manifest.files[0].path).write_bytes(bytes(manifest.files[0].bytes))
    with pytest.raises(InputError, match=f"{uri}/.*: damaged .*: delete the folder {uri} and run"):
        list(tables.stream_table(uri, manifest, schema.CENTERS, ["item"]))
