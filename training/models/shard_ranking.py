"""Ranking where each rank owns items: rows of histories come from their owners.

B histories of this rank, T positions, N histories of all ranks, C channels, n own items, D width.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from training.data.batch import Batch
from training.layers.queries import Queries
from training.layers.shard_scoring import count_over_shards
from training.models.base import ItemVectors, Model
from training.sharding.exchange import plan_rows
from training.sharding.item_shards import ItemShards

HOST = torch.device("cpu")


class ShardRanking:
    """Vectors of the own items, and the histories of all ranks ranked among them."""

    def __init__(self, model: Model, rows: ItemShards, block: int) -> None:
        """Compute the vectors of the own items [C, n, D]. Collective."""
        assert model.owners is not None
        self._model, self._rows, self._block, self._owners = model, rows, block, model.owners
        self._products = rows.center_products()
        with model.reading(rows.look_up_own()):
            self.items: ItemVectors = model.item_vectors()

    @torch.no_grad()
    def encode(self, items_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the vectors of padded histories [B, C, D]. Collective."""
        device, shards = self._model.channel_weights.device, self._owners.shards
        distinct, index_BT = np.unique(items_BT.numpy(), return_inverse=True)
        none, index = torch.empty(0, dtype=torch.int64), torch.from_numpy(index_BT)
        items = torch.from_numpy(distinct)
        batch = Batch(items, index.view_as(items_BT), none, none, torch.empty(0))
        batch = self._model.with_row_ids(self._model.with_sparse_rows(batch))
        assert batch.row_ids is not None
        plan = plan_rows(batch.row_ids, shards, self._owners.planner)
        batch = tree_map_only(Tensor, partial(Tensor.to, device=device), batch._replace(plan=plan))
        with self._model.reading(self._rows.look_up(batch, self._products)):
            tokens = self._model.item_tokens(batch)
        return self._model.user_vectors(batch.item_index, lengths_B.to(device), tokens)

    def count(self, vectors_BCD: Tensor, targets_B: Tensor) -> tuple[Tensor, Tensor]:
        """Count the items of all ranks that score higher than each target, and that tie [B] each.

        The ranks' targets are counted one rank after the other. Collective.
        """
        peers, weights = self._owners.peers, self._model.channel_weights[None]
        counts = peers.gather_counts(len(targets_B))
        of_all = zip(
            torch.split(peers.gather("ranking", vectors_BCD, counts), counts),
            torch.split(peers.gather("ranking", targets_B, counts), counts),
            strict=True,
        )
        better = ties = targets_B
        for rank, (vectors, targets) in enumerate(of_all):
            if not len(targets):
                continue
            queries = Queries(vectors, self.items.vectors)
            found = count_over_shards(queries, weights, targets, self._block, self._owners)
            if rank == peers.rank:
                better, ties = (tensor[:, 0] for tensor in found)
        return better, ties
