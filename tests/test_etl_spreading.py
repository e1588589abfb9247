"""The memory M = C' + spread (A C' + C' A^T) + similarity A against dense numpy."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_array, vstack

from etl.graph.row_cuts import Cut, keep_heaviest, total_cut
from etl.spark import blocks
from etl.spark.vector_table import ItemTable
from etl.transitions import memory, spreading
from etl.transitions.spreading import Spreading
from mdsrec.config import TransitionsConfig
from mdsrec.schema import COOCCURRENCE, NEIGHBORS, TRANSITIONS

NUM_ITEMS = 600  # more than two blocks of the smallest size, 256
NEAR = 3  # of the 5 stored neighbors


def write_table(folder, table, rows_per_file=1000):
    folder.mkdir()
    for number, start in enumerate(range(0, max(1, table.num_rows), rows_per_file)):
        pq.write_table(table.slice(start, rows_per_file), folder / f"part-{number:05d}.parquet")
    return ItemTable.uncommitted(str(folder), table.schema)


def write_transitions(folder, C):
    rows, columns = np.nonzero(C)
    table = [rows.astype(np.int32), columns.astype(np.int32), C[rows, columns]]
    return write_table(folder, pa.table(table, schema=TRANSITIONS))


def write_neighbors(folder, lists):
    """Write {item: {neighbor: similarity}}."""
    rows = [
        {"item": item, "neighbors": [*found], "similarities": [*found.values()]}
        for item, found in lists.items()
    ]
    return write_table(folder, pa.Table.from_pylist(rows, NEIGHBORS), 130)


def dense_weights(modalities, num_items, count):
    """Return the mean over the modalities in which an item has neighbors."""
    A = np.zeros((num_items, num_items))
    for item in range(num_items):
        present = [lists[item] for lists in modalities if lists.get(item)]
        for found in present:
            near = dict(list(found.items())[:count])
            weights = np.maximum(np.float32([*near.values()]).astype(float), 0)
            if not weights.any():
                weights += 1
            A[item, [*near]] += weights / weights.sum() / len(present)
    return A


def dense_heaviest(M, most):
    kept = np.zeros_like(M)
    for row, heaviest in zip(M, kept, strict=True):
        first = np.lexsort((np.arange(len(row)), -row))[:most]
        heaviest[first] = row[first]
    return kept


def dense_memory(C, A, config):
    C = dense_heaviest(C, config.max_entries)
    M = C + config.spread * (A @ C + C @ A.T) + config.similarity * A
    return dense_heaviest(M, config.max_entries)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """C, the neighbors in two modalities that some items lack, and their tables."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    C = rng.random((NUM_ITEMS, NUM_ITEMS)) * (rng.random((NUM_ITEMS, NUM_ITEMS)) < 0.01)
    C[7] = rng.random(NUM_ITEMS)  # all items follow this one
    modalities = []
    for share in (0.8, 0.5):
        items = np.flatnonzero(rng.random(NUM_ITEMS) < share).tolist()
        lists = {}
        for item in items:
            others = rng.choice([other for other in items if other != item], 5, replace=False)
            similarities = sorted(rng.uniform(-0.5, 1, 5).astype(np.float32), reverse=True)
            lists[item] = dict(zip(others.tolist(), map(float, similarities), strict=True))
        modalities.append(lists)
    tables = [write_neighbors(folder / f"{n}", lists) for n, lists in enumerate(modalities)]
    return C, modalities, write_transitions(folder / "transitions", C), tuple(tables)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)


def with_transposed(found, folder):
    """Add A^T, as the tasks that write it do."""
    starts = range(0, found.num_items, found.block_size)
    batches = [batch for n in range(len(starts)) for batch in memory._split_transposed(found, n)]
    for block in range(found.num_blocks):
        rows = [row for batch in batches for row in batch.to_pylist() if row["block"] == block]
        if rows:
            batch = pa.RecordBatch.from_pylist(rows)
            assert list(memory._write_transposed(str(folder), iter([batch])))
    return replace(found, neighbors_to=ItemTable.uncommitted(str(folder), COOCCURRENCE))


def rows_of(found, first, last):
    """Return rows of M, from the rows of C' and of A^T that they need."""
    if not found.spreads:
        return found.rows(first, last)
    factors = []
    for kind, items in enumerate(found.needs(first, last)):
        parts = [
            found.factor(kind, start, min(start + found.block_size, found.num_items))
            for start in range(0, found.num_items, found.block_size)
        ]
        factors.append(vstack(parts, format="csr")[items])
    return found.rows(first, last, factors)


def rows_by_span(found, span):
    """Return all rows of M, computed by spans, and the cuts of the transitions and of M."""
    starts = range(0, found.num_items, span)
    parts = [rows_of(found, first, min(first + span, found.num_items)) for first in starts]
    matrices, *cuts = zip(*parts, strict=True)
    return np.concatenate([M.toarray() for M in matrices]), *map(total_cut, cuts)


@pytest.mark.parametrize("span", [NUM_ITEMS, 77])
@pytest.mark.parametrize("num_modalities", [0, 1, 2])
@pytest.mark.parametrize("max_entries", [1000, 25])
def test_the_memory_equals_the_dense_one(
    world, small_blocks, tmp_path, span, num_modalities, max_entries
):
    C, modalities, transitions, neighbors = world
    config = TransitionsConfig(num_neighbors=NEAR, max_entries=max_entries)
    tables = neighbors[:num_modalities]
    found = Spreading(transitions, tables, NUM_ITEMS, int(np.count_nonzero(C)), config)
    if found.spreads:
        found = with_transposed(found, tmp_path / "transposed")
    M, cut_of_C, cut = rows_by_span(found, span)
    A = dense_weights(modalities[:num_modalities], NUM_ITEMS, NEAR)
    expected = dense_memory(C, A, config)
    np.testing.assert_allclose(M, expected, rtol=1e-12)
    assert np.count_nonzero(M) > NUM_ITEMS
    heaviest = dense_heaviest(C, max_entries)
    whole = dense_memory(heaviest, A, config.model_copy(update={"max_entries": NUM_ITEMS}))
    for found_cut, before, after in ((cut_of_C, C, heaviest), (cut, whole, expected)):
        rows = ((before > 0).sum(axis=1) > max_entries).sum()
        lost = before.sum() - after.sum()
        assert found_cut == pytest.approx((rows, before.sum(), lost), rel=1e-9, abs=1e-9)
    assert (cut_of_C.lost > 0) == (max_entries == 25)
    assert (cut.lost > 0) == (max_entries == 25 and num_modalities > 0)


def test_rows_have_the_same_bits_for_any_span_block_and_chunk(world, tmp_path, monkeypatch):
    C, _, transitions, neighbors = world
    config = TransitionsConfig(num_neighbors=NEAR, max_entries=25)
    found = Spreading(transitions, neighbors, NUM_ITEMS, int(np.count_nonzero(C)), config)
    whole, *_ = rows_by_span(with_transposed(found, tmp_path / "whole"), NUM_ITEMS)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    found = with_transposed(found, tmp_path / "blocks")
    assert found.num_blocks > 1
    monkeypatch.setattr(spreading, "PRODUCTS_PER_CHUNK", 100)
    np.testing.assert_array_equal(rows_by_span(found, 50)[0], whole)


def planned(num_items, num_neighbors, entries_per_item=100):
    """Return how M of one modality would be divided; no table is read."""
    config = TransitionsConfig(num_neighbors=num_neighbors)
    return Spreading(None, (None,), num_items, entries_per_item * num_items, config)


def test_a_larger_catalogue_has_longer_spans_not_more_that_a_process_can_hold():
    small, large = planned(10**6, 1), planned(160 * 10**6, 1)
    row = 48 * (100 * 3 + 1)  # bytes, of the entries of C, A C and C A^T, and of A
    assert small.span == (256 << 20) // row
    assert large.span == 160 * 10**6 // 2**13 > small.span
    longest = planned(160 * 10**6, 20)
    assert large.span_bytes < 2 << 30
    assert 0.99 * (2 << 30) < longest.span_bytes <= 2 << 30


@pytest.mark.parametrize("found", [planned(10**6, 1), planned(160 * 10**6, 20)])
def test_a_wave_is_as_many_spans_as_fit_on_the_disks(found):
    share = memory.spans_per_wave(found, 3) * found.span_bytes / (3 * memory.WAVE_BYTES)
    assert 0.95 < share <= 1


def small_memory(folder, neighbors, config):
    """Return the dense M of three items, where 1 follows 0 four times. It stores no zeros."""
    C = np.zeros((3, 3))
    C[0, 1] = 4
    tables = [write_neighbors(folder / f"{n}", lists) for n, lists in enumerate(neighbors)]
    transitions = write_transitions(folder / "transitions", C)
    found = Spreading(transitions, tuple(tables), 3, 1, config)
    found = with_transposed(found, folder / "transposed") if found.spreads else found
    M = rows_of(found, 0, 3)[0]
    assert (M.data > 0).all()
    return M.toarray()


def test_counts_are_spread_to_neighbors_of_both_items(tmp_path):
    config = TransitionsConfig(spread=0.25, similarity=2.0)
    # item 2 is the neighbor of 0 and of 1: A = [[0 0 1], [0 0 1], [3/4 1/4 0]]
    lists = {0: {2: 0.5}, 1: {2: 0.5}, 2: {0: 0.75, 1: 0.25}}
    M = small_memory(tmp_path, [lists], config)
    # A C: row 2 gets 3/4 of row 0. C A^T: row 0 gets 4 A[2, 1] in column 2
    assert M.tolist() == [
        [0, 4, 0.25 * 4 * 0.25 + 2 * 1],
        [0, 0, 2 * 1],
        [2 * 0.75, 0.25 * 0.75 * 4 + 2 * 0.25, 0],
    ]


def test_an_item_averages_over_the_modalities_that_it_has(tmp_path):
    config = TransitionsConfig(spread=0.0, similarity=1.0)
    text, image = {0: {1: 0.9}, 1: {0: 0.9}}, {0: {2: 0.3}, 2: {0: 0.3}}
    M = small_memory(tmp_path, [text, image], config)
    assert M.tolist() == [[0, 4 + 0.5, 0.5], [1, 0, 0], [1, 0, 0]]


def test_dissimilar_neighbors_weigh_nothing_beside_similar_ones_and_the_same_alone(tmp_path):
    config = TransitionsConfig(spread=0.0, similarity=1.0)
    lists = {0: {1: 0.5, 2: -0.5}, 1: {2: -0.1, 0: -0.2}, 2: {0: 0.0}}
    M = small_memory(tmp_path, [lists], config)
    assert M.tolist() == [[0, 4 + 1, 0], [0.5, 0, 0.5], [1, 0, 0]]


def test_neighbors_that_weigh_nothing_have_no_entries(tmp_path):
    config = TransitionsConfig(spread=0.0, similarity=0.0)
    M = small_memory(tmp_path, [{0: {1: 0.5}, 1: {2: 0.5}, 2: {0: 0.5}}], config)
    assert M.tolist() == [[0, 4, 0], [0, 0, 0], [0, 0, 0]]


def test_without_neighbors_the_memory_is_the_counts(tmp_path):
    config = TransitionsConfig(num_neighbors=0)
    assert small_memory(tmp_path, [], config).tolist() == [[0, 4, 0], [0, 0, 0], [0, 0, 0]]


def test_equal_weights_are_kept_in_the_order_of_items():
    M = csr_array(np.float64([[2, 1, 3, 1, 1], [0, 5, 0, 0, 0]]))
    kept, cut = keep_heaviest(M, 3)
    assert kept.toarray().tolist() == [[2, 1, 3, 0, 0], [0, 5, 0, 0, 0]]
    assert kept.indices.tolist() == [0, 1, 2, 1]  # a table lists columns in their order
    assert cut == Cut(rows=1, weight=13, lost=2)
