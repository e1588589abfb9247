"""Random catalogues on three ranks: every collective form, and what its plain twin gives.

The ranks draw the same world, so each of them computes the plain form of everything by itself.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from reference_tables import sparse_matrix
from torch import Tensor, distributed

from training.data.item_order import ItemOrder
from training.data.plans import SumPlan
from training.data.sparse import SparseMatrix
from training.losses.full_softmax import Channel, full_softmax_loss, plain_full_softmax_loss
from training.sharding import ownership
from training.sharding.exchange import add_rows, plan_rows, read_rows
from training.sharding.own_rows import OwnRows
from training.sharding.owners import Owners
from training.sharding.ownership import Shards
from training.sharding.peers import Peers
from training.sharding.sums import OwnColumns, add_product_gradient, sharded_product
from training.sharding.table_exchange import to_owners

W, D = 3, 2
CPU = torch.device("cpu")
Pairs = list[tuple[Tensor, Tensor]]  # what was found, and what was expected


class World:
    """A random catalogue, the same on every rank, and the share of this rank."""

    def __init__(self, seed: int, num_items: int, block: int) -> None:
        ownership.BLOCK = block
        self.random, self.X = np.random.default_rng(seed), num_items
        self.rank, self.peers, self.planner = distributed.get_rank(), Peers(), Peers()
        self.shards = Shards(num_items, W, self.rank)
        self.own = slice(self.shards.first, self.shards.last)
        self.owners = Owners(self.shards, self.peers, self.planner, ItemOrder())
        self.E = self.floats(num_items, D)

    def floats(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.random.normal(size=shape))

    def items_of_ranks(self, distinct: bool) -> list[Tensor]:
        """Draw the items that each rank reads: none, a few, or more than there are."""
        numbers = self.random.permutation([0, 3, 2 * self.X])
        drawn = [self.random.integers(0, self.X, number) for number in numbers]
        return [torch.from_numpy(np.unique(d) if distinct else d) for d in drawn]

    def matrix(self) -> Tensor:
        """Draw a matrix [X, X] with empty rows, whose entries a float32 holds."""
        entries = self.random.integers(1, 5, (self.X, self.X))
        kept = self.random.random((self.X, self.X)) < 0.3
        kept[self.random.random(self.X) < 0.3] = False
        return torch.from_numpy(entries * kept).double()

    def sum_plan(self, matrix: Tensor, items: Tensor) -> SumPlan:
        own = matrix[:, self.own]
        stored = torch.nonzero(own.any(1)).flatten().numpy()
        return OwnColumns(stored, sparse(own[stored]), self.planner).select(items.numpy(), CPU)


def sparse(dense: Tensor) -> SparseMatrix:
    rows, columns = (index.astype(np.int64) for index in np.nonzero(dense.numpy()))
    return sparse_matrix(rows, columns, dense.numpy()[rows, columns], len(dense))


def rows(world: World) -> Pairs:
    """Read rows and send their gradients back; plain: index them, and add up by item."""
    of_ranks = world.items_of_ranks(distinct=True)
    gradients = [world.floats(len(ids), D) for ids in of_ranks]
    ids, E = of_ranks[world.rank], world.E
    plan = plan_rows(ids, world.shards, world.planner)
    found, gathered = read_rows(plan, E[world.own], world.peers), torch.zeros_like(E[world.own])
    add_rows(plan, gradients[world.rank], gathered, world.peers)
    expected = torch.zeros_like(E).index_add(0, torch.cat(of_ranks), torch.cat(gradients))
    return [(found, E[ids]), (gathered, expected[world.own])]


def sums(world: World) -> Pairs:
    """Multiply rows of a matrix at the owners of its columns; plain: a dense product."""
    matrix, of_ranks = world.matrix(), world.items_of_ranks(distinct=False)
    gradients = [world.floats(len(items), D) for items in of_ranks]
    plan = world.sum_plan(matrix, of_ranks[world.rank])
    found, gathered = (
        sharded_product(plan, world.E[world.own], world.peers),
        torch.zeros_like(world.E),
    )
    gathered = gathered[world.own]
    add_product_gradient(plan, gradients[world.rank], gathered, world.peers)
    expected = matrix[torch.cat(of_ranks)].T @ torch.cat(gradients)
    product = matrix[of_ranks[world.rank]] @ world.E
    return [(found, product), (gathered, expected[world.own])]


def graph_rows(world: World) -> Pairs:
    """Select rows of a matrix from their owners; plain: index it."""
    matrix, items = world.matrix(), world.items_of_ranks(distinct=False)[world.rank]
    entries = OwnRows(sparse(matrix[world.own]), world.shards, world.planner).select(
        items.numpy(), CPU
    )
    return [(entries.times(world.E), matrix[items] @ world.E)]


def softmax(world: World, unit: bool = False) -> Pairs:
    """Score all items by E, Ahat E and another table, each rank its own; plain: everything.

    The ranks have different numbers of prefixes, and weight their losses differently.
    """
    matrix, own, rank = world.matrix(), world.own, world.rank
    graph = OwnRows(sparse(matrix[own]), world.shards, world.planner)
    graph.halo = graph.remote_columns()
    halo = plan_rows(torch.from_numpy(graph.halo).long(), world.shards, world.planner)
    other = world.floats(world.X, D)
    numbers = world.random.permutation([0, 2, 5])
    queries = [world.floats(3, number, D).requires_grad_() for number in numbers]
    targets = [torch.from_numpy(world.random.integers(0, world.X, n)) for n in numbers]
    weights = [world.floats(3) for _ in numbers]

    halo_rows = read_rows(halo, world.E[own], world.peers)
    table = torch.cat([world.E[own], halo_rows]).requires_grad_()
    table.grad = torch.zeros_like(table)
    mapped = other[own].clone().requires_grad_()
    channels = [Channel(0, None), Channel(0, graph.on_device()), Channel(1, None)]
    arguments = queries[rank], targets[rank], channels, [table, mapped], unit, world.owners
    losses = full_softmax_loss(*arguments)
    (losses @ weights[rank]).backward()
    gathered, num_own = table.grad[: world.shards.num_own].clone(), world.shards.num_own
    add_rows(halo, table.grad[num_own:], gathered, world.peers)

    E, F = (t.clone().requires_grad_() for t in (world.E, other))
    plain = [q.detach().clone().requires_grad_() for q in queries]
    vectors = [E, matrix @ E, F]
    if unit:
        vectors = [torch.nn.functional.normalize(v, dim=1) for v in vectors]
    expected = [plain_full_softmax_loss(q, t, vectors) for q, t in zip(plain, targets, strict=True)]
    sum(e @ w for e, w in zip(expected, weights, strict=True)).backward()  # type: ignore[union-attr]
    return [
        (losses.detach(), expected[rank].detach()),
        (gradient(queries[rank]), gradient(plain[rank])),
        (gathered, gradient(E)[own]),
        (gradient(mapped), gradient(F)[own]),
    ]


def softmax_of_cosines(world: World) -> Pairs:
    return softmax(world, unit=True)


def gradient(of: Tensor) -> Tensor:
    return torch.zeros_like(of) if of.grad is None else of.grad


def table_rows(world: World) -> Pairs:
    """Send rows of batches to their owners; plain: choose those of all ranks in order."""
    of_ranks = [
        [world.random.integers(0, world.X, n) for n in world.random.integers(0, 9, number)]
        for number in world.random.permutation([0, 1, 3])
    ]
    batches = ([pa.record_batch([pa.array(x)], ["item"]) for x in b] for b in of_ranks)
    mine = [*batches][world.rank]

    def owner_of(batch: pa.RecordBatch) -> Any:
        return world.shards.owners(batch["item"].to_numpy())

    found = [b["item"].to_numpy() for b in to_owners(iter(mine), owner_of, world.planner)]
    rounds = [b[k] for k in range(3) for b in of_ranks if k < len(b)]
    own = [x[world.shards.owners(x) == world.rank] for x in rounds]
    empty = np.empty(0, np.int64)
    pair = (np.concatenate([empty, *part]) for part in (found, own))
    return [tuple(map(torch.from_numpy, pair))]  # type: ignore[list-item]


FORMS = (rows, sums, graph_rows, softmax, softmax_of_cosines, table_rows)
