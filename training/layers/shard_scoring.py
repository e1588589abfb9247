"""Exact ranks and top-k items where each rank scores the items that it owns.

B targets or users, C channels, K of them dense, S weighted sums of channels, D width, n items of
each row's own, R distinct ones.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.layers.queries import Queries
from training.layers.scoring import Tiles, count_against, top_k_items
from training.sharding.exchange import plan_rows, read_rows
from training.sharding.owners import Owners


@dataclass(frozen=True)
class ShardQueries:
    """The queries of all ranks with the own items in `own`. Methods are collective.

    Every rank passes the same histories, targets and items.
    """

    own: Queries
    owners: Owners

    @property
    def num_channels(self) -> int:
        return self.own.num_channels

    def only(self, channel: int) -> "ShardQueries":
        """Return the same queries with one channel."""
        return replace(self, own=self.own.only(channel))

    def count(
        self, sums: Tensor, targets: Tensor, block: int, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what `count_channels` does for the items of all ranks."""
        targets = targets.to(self.own.items.device)
        return count_over_shards(self.own, sums, targets, block, self.owners, seen)

    def top(
        self, weights: Tensor, k: int, block: int, seen: Tensor, wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what `top_k_items` does for the items of all ranks."""
        return top_over_shards(self.own, weights, k, block, seen, self.owners, wanted)

    def scores_of(self, items_Bn: Tensor) -> Tensor:
        """Return the score of each channel for items of each history's own -> [B, n, C].

        The vectors come from their owners, so the products are those of one rank bit by bit.
        """
        shards, peers = self.owners.shards, self.owners.peers
        distinct, index_Bn = torch.unique(items_Bn, return_inverse=True)
        plan = plan_rows(distinct.cpu(), shards, self.owners.planner)
        plan = plan._replace(wanted=plan.wanted.to(items_Bn.device))
        vectors_RKD = read_rows(plan, self.own.items.transpose(0, 1), peers)
        dense = Queries(self.own.vectors, vectors_RKD.transpose(0, 1).contiguous())
        is_own, local = _own(items_Bn, self.owners)
        parts = [dense.scores_of(index_Bn)]
        for sparse in self.own.sparse:
            scores_Bn = torch.where(is_own, sparse.at(local), 0.0)
            parts.append(peers.sum("ranking", scores_Bn)[..., None])
        return torch.cat(parts, dim=2)


def count_over_shards(
    queries: Queries,
    sums: Tensor,
    targets: Tensor,
    block: int,
    owners: Owners,
    seen: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `count_channels` does, with the own items in `queries`. Collective.

    Every rank passes the same histories, targets and seen items. The rank that owns a target gives
    its score. Tiles are as wide as those of all items, so equal items of two ranks have equal
    scores. ValueError on every rank if a score is not finite.
    """
    shards, peers = owners.shards, owners.peers
    tiles = Tiles(queries, sums, block, shards.num_items) if shards.num_own else None
    is_own, clamped = _own(targets, owners)
    local = targets - shards.first
    if seen is not None:
        seen = _own_pairs(seen, owners, targets.device)
        seen = seen[seen[:, 1] != local[seen[:, 0]]]

    def all_reduced(scores: Tensor) -> Tensor:
        """Return the scores of the targets [S + C, B], each from its owner."""
        return peers.sum("ranking", torch.where(is_own, scores, torch.zeros_like(scores)))

    shape = len(sums) + queries.num_channels, len(targets)
    none = torch.zeros(shape, dtype=torch.int64, device=targets.device)
    own = queries.vectors.new_zeros(shape) if tiles is None else tiles.expected_scores(clamped)
    own = all_reduced(own)
    while True:

        def count(own: Tensor = own) -> tuple[Tensor, ...]:
            return (own, none, none) if tiles is None else count_against(own, tiles, local, seen)

        in_tiles, *counts = _unless_damaged(count, owners)
        in_tiles = all_reduced(in_tiles)
        if torch.equal(in_tiles, own):
            better, equal = peers.sum("ranking", torch.stack(counts))
            return better.T, equal.T - 1  # a target equals itself
        own = in_tiles


def top_over_shards(
    queries: Queries,
    weights: Tensor,
    k: int,
    block: int,
    seen: Tensor,
    owners: Owners,
    wanted: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `top_k_items` does, with the own items in `queries`. Collective.

    The ranks' lists are merged by score, then item. ValueError on every rank if a score is not
    finite.
    """
    shards, peers = owners.shards, owners.peers
    num_rows, device = len(queries.vectors), queries.vectors.device
    pairs = _own_pairs(seen, owners, device)
    own_wanted = None if wanted is None else wanted[shards.first : shards.last].to(device)

    def own_lists() -> tuple[Tensor, Tensor]:
        if shards.num_own:
            return top_k_items(queries, weights, k, block, pairs, own_wanted, shards.num_items)
        none = queries.vectors.new_full((num_rows, k), -torch.inf)
        return none, torch.zeros_like(none, dtype=torch.int64)

    scores, items = _unless_damaged(own_lists, owners)
    items = torch.where(scores > -torch.inf, items + shards.first, shards.num_items)

    def of_all(part: Tensor) -> Tensor:
        """Return the lists of all ranks side by side, in the order of their items."""
        gathered = peers.gather("ranking", part, [num_rows] * peers.world_size)
        return gathered.view(-1, num_rows, k).transpose(0, 1).flatten(1)

    ordered = torch.sort(of_all(scores), dim=1, descending=True, stable=True)
    return ordered.values[:, :k], of_all(items).gather(1, ordered.indices[:, :k])


def _own(items: Tensor, owners: Owners) -> tuple[Tensor, Tensor]:
    """Return which items this rank owns, and their numbers among the own ones, 0 for others."""
    shards = owners.shards
    is_own = (items >= shards.first) & (items < shards.last)
    return is_own, torch.where(is_own, items - shards.first, 0)


def _own_pairs(seen: Tensor, owners: Owners, device: torch.device) -> Tensor:
    """Return the pairs (row, item) of own items, which count from the first own one."""
    is_own, local = _own(seen[:, 1], owners)
    return torch.stack([seen[:, 0], local], dim=1)[is_own].to(device)


def _unless_damaged(score: Callable[[], tuple[Tensor, ...]], owners: Owners) -> tuple[Tensor, ...]:
    """Return the result of `score`. Collective.

    ValueError on every rank if one finds a score that is not finite.
    """
    found: tuple[Tensor, ...] = ()
    with suppress(ValueError):
        found = score()
    if any(owners.planner.gather_counts(int(not found))):
        raise ValueError("a score is not finite: the weights or vectors are damaged")
    return found
