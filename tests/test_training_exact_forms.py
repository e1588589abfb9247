"""Cheaper forms equal the plain ones: values and gradients, in float64."""

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mdsrec_world import World
from reference_tables import sparse_matrix
from torch import Tensor

from mdsrec.config import MDSRecConfig
from mdsrec.errors import InputError
from training.data import device_matrices, long_rows
from training.data.device_matrices import BLOCK, DeviceMatrix, cut_rows, entries_of, stack
from training.data.long_rows import LongRows
from training.data.sparse import SparseMatrix, multiply_all, product
from training.layers.dropout import dropout, dropout_mask
from training.layers.in_blocks import in_blocks
from training.losses import full_softmax, softmax_tiles
from training.losses.full_softmax import Channel, full_softmax_loss, plain_full_softmax_loss
from training.losses.softmax_tiles import Tiles, tiles_of
from training.models.mdsrec import centers
from training.models.mdsrec.interest_block import InterestBlock

X, D = 11, 6
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _random() -> None:
    torch.manual_seed(0)


def sparse(dense: Tensor) -> SparseMatrix:
    """Return the nonzero entries of a dense matrix."""
    rows, columns = (index.astype(np.int64) for index in np.nonzero(dense.numpy()))
    return sparse_matrix(rows, columns, dense.numpy()[rows, columns], len(dense))


def random_matrix(rows: int, columns: int) -> Tensor:
    """Draw a matrix with a third of its entries nonzero and an empty row."""
    dense = torch.randint(1, 5, (rows, columns)) * (torch.rand(rows, columns) < 1 / 3)
    dense[rows // 2] = 0
    return dense.double()


def parameter(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, of)


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("chunk", [1, 5, X, 2 * X])
@pytest.mark.parametrize("block", [1, 3, 2 * X])
@pytest.mark.parametrize("part", [1, 3, 7])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_cross_entropy_in_tiles_equals_the_plain_one(
    chunk: int, block: int, part: int, unit: bool, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_prefixes = 7
    tiles = Tiles(num_prefixes, X, chunk, block, part, keeps)
    monkeypatch.setattr(full_softmax, "tiles_of", lambda *_: tiles)
    Ahat = random_matrix(X, X)
    embedding, mapped, queries = parameter(X, D), parameter(X, D), parameter(3, num_prefixes, D)
    targets = torch.randint(0, X, (num_prefixes,))
    targets[0] = X - 1  # in the last chunk, which may be short
    channels = [Channel(0, None), Channel(0, DeviceMatrix(sparse(Ahat))), Channel(1, None)]
    weights = torch.tensor([1.0, 0.3, 0.7], dtype=torch.float64)
    found = full_softmax_loss(queries, targets, channels, [embedding, mapped], unit)
    vectors = [embedding, Ahat @ embedding, mapped]
    if unit:
        vectors = [torch.nn.functional.normalize(v, dim=1) for v in vectors]
    expected = plain_full_softmax_loss(queries, targets, vectors)
    assert_same((found,), (expected,))
    inputs = embedding, mapped, queries
    assert_same(gradients(weights @ found, *inputs), gradients(weights @ expected, *inputs))


@pytest.mark.parametrize("missing", [0, 1])
def test_scores_are_computed_once_if_they_and_the_vectors_fit(
    missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_prefixes, num_channels, computed = 7, 2, []
    of_all = 8 * (num_prefixes + D) * X * num_channels
    monkeypatch.setattr(softmax_tiles, "SAVED_BYTES", of_all - missing)
    monkeypatch.setattr(softmax_tiles, "PREFIXES", 5)
    scores = full_softmax._Items.scores

    def counted(self: Any, *inputs: Any) -> Tensor:
        computed.append(inputs)
        return scores(self, *inputs)

    monkeypatch.setattr(full_softmax._Items, "scores", counted)
    embedding, queries = parameter(X, D), parameter(num_channels, num_prefixes, D)
    channels = [Channel(0, None), Channel(0, DeviceMatrix(sparse(random_matrix(X, X))))]
    found = full_softmax_loss(
        queries, torch.zeros(num_prefixes, dtype=torch.int64), channels, [embedding]
    )
    in_forward = len(computed)
    assert in_forward == num_channels * 2  # tiles: 5 prefixes and 2
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert len(computed) == in_forward * (1 + missing)


def test_scores_that_are_not_kept_are_in_memory_one_tile_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    scores = full_softmax._Items.scores

    def noted(self: Any, *inputs: Any) -> Tensor:
        found = scores(self, *inputs)
        alive.append(weakref.ref(found))
        assert sum(each() is not None for each in alive) == 1
        return found

    monkeypatch.setattr(full_softmax._Items, "scores", noted)
    monkeypatch.setattr(full_softmax, "tiles_of", lambda *_: Tiles(12, X, X, 4, 3, keeps=False))
    table, queries = parameter(X, D), parameter(1, 12, D)
    targets = torch.zeros(12, dtype=torch.int64)
    full_softmax_loss(queries, targets, [Channel(0, None)], [table]).backward()  # type: ignore[no-untyped-call]
    assert len(alive) == 2 * 3 * 4  # 3 blocks of 4 parts, forward and backward


@pytest.mark.parametrize("num_prefixes", [0, 1, 512, 8_192, 262_144])
@pytest.mark.parametrize("num_items", [0, 4_000, 70_000, 1_000_000, 48_000_000])
def test_the_scores_of_a_tile_are_bounded_on_a_gpu(num_prefixes: int, num_items: int) -> None:
    """With sharded items the prefixes are those of all ranks."""
    table: Any = SimpleNamespace(shape=(num_items, 300), element_size=lambda: 4, is_cuda=True)
    tiles = tiles_of(num_prefixes, num_items, 3, table)
    most = softmax_tiles.GPU_SAVED_BYTES if tiles.keeps else softmax_tiles.GPU_TILE_BYTES
    assert 4 * min(tiles.block, num_items) * tiles.prefixes <= most
    assert sum(items.stop - items.start for items in tiles.chunks()) == num_items
    assert sum(part.stop - part.start for part in tiles.parts()) == max(1, num_prefixes)
    assert tiles.keeps or tiles.chunk % BLOCK == 0  # by which the rows of a graph are ordered


def test_scores_far_apart_do_not_overflow() -> None:
    queries, embedding = torch.full((1, 1, D), 1e3), torch.eye(X, D) * 10
    found = full_softmax_loss(queries, torch.tensor([0]), [Channel(0, None)], [embedding])
    assert found.item() == pytest.approx(np.log(D), abs=1e-3)


def test_products_of_a_table_have_the_gradients_of_dense_products() -> None:
    left, right = random_matrix(4, X), random_matrix(X, X)
    embedding = parameter(X, D)
    rows = np.array([7, 2, 2, X // 2])
    matrices = {"whole": LongRows(sparse(left), X), "rows": sparse(right).select(rows, CPU)}
    table, products = multiply_all(embedding, matrices, X)
    found = [table, products["whole"], products["rows"]]
    expected = [embedding, left @ embedding, right[rows] @ embedding]
    assert_same(tuple(found), tuple(expected))

    def loss(parts: list[Tensor]) -> Tensor:
        return sum((part.sin().sum() for part in parts), torch.zeros(()))

    assert_same(gradients(loss(found), embedding), gradients(loss(expected), embedding))


@pytest.mark.parametrize("bag", [1, 3, 256])
@pytest.mark.parametrize("wide", [0, 4])
def test_matrices_stacked_for_a_gpu_have_the_dense_products(
    bag: int, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_matrices, "BAG", bag)
    monkeypatch.setattr(device_matrices, "WIDE", wide)
    left, right, rows = random_matrix(4, X), random_matrix(X, X), np.array([7, 2, 2, X // 2])
    entries = {
        "left": sparse(left).select(np.arange(4), CPU),
        "right": sparse(right).select(rows, CPU),
    }
    stacked, dense = stack(entries), torch.cat([left, right[rows]])
    embedding, gradient = torch.randn(X, D).double(), torch.randn(8, D).double()
    products = stacked.split(stacked.times(embedding))
    assert_same((products["left"], products["right"]), (left @ embedding, right[rows] @ embedding))
    added = torch.ones(X, D).double()
    stacked.add_transposed(added, gradient, X)
    assert_same((added,), (1 + dense.T @ gradient,))
    assert stacked.columns.tolist() == dense.any(dim=0).nonzero().flatten().tolist()


@pytest.mark.parametrize("block", [1, 4, X])
def test_blocks_of_rows_by_column_add_up_to_the_transposed_matrix(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_matrices, "BLOCK", block)
    dense, gradient = random_matrix(X, X), torch.randn(X, D).double()
    added = torch.zeros(X, D).double()
    parts = zip(device_matrices.blocks_by_column(sparse(dense)), gradient.split(block), strict=True)
    for by_column, part in parts:
        by_column.add_product(added, part)
    assert_same((added,), (dense.T @ gradient,))


@pytest.mark.parametrize(("bag", "bags", "few"), [(1, 1, 0), (3, 2, 0), (1 << 16, 1 << 12, 999)])
def test_long_rows_in_bags_equal_the_whole_product(
    bag: int, bags: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_rows, "FEW", few)
    monkeypatch.setattr(long_rows, "BAG", bag)
    monkeypatch.setattr(long_rows, "BAGS", bags)
    left = random_matrix(4, X)
    left[2] = 0  # a row without entries
    embedding = parameter(X, D)
    _, products = multiply_all(embedding, {"long": LongRows(sparse(left), X)}, X)
    found, expected = products["long"], left @ embedding
    assert_same((found,), (expected,))
    assert_same(gradients(found.sin().sum(), embedding), gradients(expected.sin().sum(), embedding))


def test_a_step_with_more_entries_than_an_int32_counts_is_refused() -> None:
    most = 2**31 - 1
    starts = np.array([0, most, most + 1], dtype=np.int64)
    matrix = SparseMatrix(starts, np.empty(0, np.int32), np.empty(0, np.float32))
    with pytest.raises(
        InputError, match=r"2 items .* have 2,147,483,648 entries .* set graph\.max_c"
    ):
        matrix.select(np.array([0, 1]), CPU)


def test_a_graph_with_more_entries_than_an_int32_counts_is_refused_on_a_gpu() -> None:
    starts = np.array([0, 2**31], dtype=np.int64)
    matrix = SparseMatrix(starts, np.empty(0, np.int32), np.empty(0, np.float32))
    with pytest.raises(InputError, match=r"2,147,483,648 entries: at most .* on a GPU: set train"):
        entries_of(matrix)


def test_no_bag_is_longer_than_allowed_and_an_empty_row_is_an_empty_bag() -> None:
    bag_starts, row_starts = cut_rows(np.array([0, 7, 7, 10, 11]), most=3)
    assert bag_starts.tolist() == [0, 3, 6, 7, 7, 10, 11]
    assert row_starts.tolist() == [0, 3, 4, 5, 6]


def test_a_sparse_product_equals_the_dense_one() -> None:
    left, right = random_matrix(4, X), random_matrix(X, X)
    table = torch.eye(X, dtype=torch.float64)
    found = LongRows(product(sparse(left), sparse(right), X), X).times(table)
    assert_same((found,), (left @ right,))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_blocks_change_neither_values_nor_gradients(size: int, keep: bool) -> None:
    weight, x, constant = parameter(D, D), parameter(5, 2, D), torch.randn(5, 1, D).double()

    def function(shared: Tensor, split: tuple[Tensor, list[Tensor | None]]) -> Tensor:
        x, (constant, nothing) = split
        assert nothing is None and constant is not None
        return (x @ shared).tanh() * constant

    split = x, [constant, None]
    found, expected = in_blocks(function, size, keep, weight, split), function(weight, split)
    assert_same((found,), (expected,))
    found_gradients = gradients(found.cos().sum(), weight, x)
    assert_same(found_gradients, gradients(expected.cos().sum(), weight, x))


@pytest.mark.parametrize("with_noise", [False, True])
def test_the_mixture_of_centers_equals_the_plain_one(with_noise: bool) -> None:
    c, e = parameter(7, 3, D), parameter(7, D)
    noise = torch.randn(7, 3, dtype=torch.float64) if with_noise else None
    found = centers.center_mixture(c, e, noise, 0.3)
    expected = centers.plain_center_mixture(c, e, noise, 0.3)
    assert_same((found,), (expected,))
    assert_same(gradients(found.sin().sum(), c, e), gradients(expected.sin().sum(), c, e))


def test_absorbed_projections_equal_projected_centers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = MDSRecConfig(dim=D, num_heads=2, inner_dim=4)
    block = InterestBlock(config).double()
    for bias in (block.query.bias, block.output.bias):
        torch.nn.init.normal_(bias)
    x, c = parameter(3, 4, D), parameter(3, 5, D)
    results = []
    for absorbed in (True, False):
        monkeypatch.setattr(
            "training.models.mdsrec.interest_block.absorption_is_cheaper",
            lambda *shape, a=absorbed: a,
        )
        _, layer = block(x, None)
        assert (layer.projection is None) == absorbed
        weights = torch.softmax(layer.scores(c).view(3, 5, 2, 4), dim=-1).flatten(2)
        updated = layer.outputs(weights)
        inputs = x, c, block.query.weight, block.query.bias, block.output.weight, block.output.bias
        results.append((updated, *gradients(updated.sin().sum(), *inputs)))
    assert_same(*results)


def test_absorption_is_chosen_where_it_is_cheaper() -> None:
    assert centers.absorption_is_cheaper(num_heads=2, length=50, dim=300)
    assert centers.absorption_is_cheaper(num_heads=2, length=300, dim=300)
    assert not centers.absorption_is_cheaper(num_heads=2, length=301, dim=300)
    assert not centers.absorption_is_cheaper(num_heads=8, length=50, dim=64)


def test_dropout_zeroes_its_share_and_keeps_the_mean() -> None:
    x = torch.ones(1000, 1001)
    for p in (0.1, 0.5, 0.9):
        found = dropout(x, p, training=True)
        assert found.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
        assert (found == 0).float().mean().item() == pytest.approx(p, abs=2e-3)
        assert found.mean().item() == pytest.approx(1, abs=1e-2)
    assert dropout(x, 0.5, training=False) is x
    assert not torch.equal(dropout_mask((9, 9), 0.5, x), dropout_mask((9, 9), 0.5, x))


def test_bfloat16_products_change_the_loss_only_by_rounding() -> None:
    world = World({})
    batch, num_prefixes = world.batch()
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = world.model(batch)
        (found.sum() / num_prefixes).backward()
        losses.append(found.detach())
    assert not torch.equal(*losses)
    torch.testing.assert_close(losses[0], losses[1], atol=0.05, rtol=0.02)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in world.model.parameters())
