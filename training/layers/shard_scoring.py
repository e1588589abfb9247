"""Exact ranks where each rank scores the items that it owns.

B targets, C channels, S weighted sums of channels.
"""

import torch
from torch import Tensor

from training.layers.queries import Queries
from training.layers.scoring import Tiles, count_against
from training.sharding.owners import Owners


def count_over_shards(
    queries: Queries, sums: Tensor, targets: Tensor, block: int, owners: Owners
) -> tuple[Tensor, Tensor]:
    """Return what `count_channels` does, with the own items in `queries`. Collective.

    Every rank passes the same histories and targets. The rank that owns a target gives its score.
    Tiles are as wide as those of all items, so equal items of two ranks have equal scores.
    ValueError on every rank if a score is not finite.
    """
    shards, peers = owners.shards, owners.peers
    tiles = Tiles(queries, sums, block, shards.num_items) if shards.num_own else None
    is_own = (targets >= shards.first) & (targets < shards.last)
    local = targets - shards.first

    def combined(scores: Tensor) -> Tensor:
        """Return the scores of the targets [S + C, B], each from its owner."""
        return peers.sum("ranking", torch.where(is_own, scores, torch.zeros_like(scores)))

    shape = len(sums) + queries.num_channels, len(targets)
    scores = queries.vectors.new_zeros(shape)
    if tiles is not None:
        scores = tiles.expected_scores(local.clamp(0, shards.num_own - 1))
    own = combined(scores)
    while True:
        counts = torch.zeros(2, *shape, dtype=torch.int64, device=targets.device)
        in_tiles, is_damaged = own, False
        if tiles is not None:
            try:
                in_tiles, *found = count_against(own, tiles, local, None)
                counts = torch.stack(found)
            except ValueError:
                is_damaged = True
        if int(peers.sum("ranking", torch.tensor([is_damaged]).long().to(targets.device))):
            raise ValueError("a score is not finite: the weights or vectors are damaged")
        in_tiles = combined(in_tiles)
        if torch.equal(in_tiles, own):
            better, equal = peers.sum("ranking", counts)
            return better.T, equal.T - 1  # a target equals itself
        own = in_tiles
