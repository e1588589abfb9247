"""A trained model whose items several processes own: each encodes and scores a part of the work.

B histories of all processes, K channels of the model, X items, n own ones, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.plans import Plan
from training.data.sequences import History
from training.inference import SEEN, TrainedModel, encode_histories
from training.layers.queries import Queries
from training.layers.shard_scoring import ShardQueries
from training.memory import seen_items
from training.models.base import OwnItemVectors
from training.sharding.exchange import plan_rows
from training.sharding.owners import Owners


@dataclass(frozen=True, kw_only=True)
class TrainedShare(TrainedModel):
    """The share of one process. Its methods are collective: all get the same histories."""

    owners: Owners
    own: OwnItemVectors

    def item_vectors(self) -> Tensor:
        """Return the vectors of the own items [K, n, D]."""
        return self.own.vectors

    def vectors_between(self, first: int, last: int) -> Tensor:
        """Return the vectors of items first <= item < last on the owner of the first [K, n, D].

        The other processes get none.
        """
        is_reader = self.owns(first)
        plan = self._plan(torch.arange(first, last if is_reader else first))
        vectors_nKD = self.own.vectors.transpose(0, 1)[plan.wanted]
        swap = self.owners.peers.swap
        return swap("vectors", vectors_nKD, plan.sent, plan.received).transpose(0, 1)

    def owns(self, item: int) -> bool:
        """Return whether this process owns the item. Not collective."""
        return self.owners.shards.first <= item < self.owners.shards.last

    @torch.no_grad()
    def user_vectors(self, histories: list[History]) -> Tensor:
        """Return one vector per history and channel of the model [B, K, D].

        A process encodes a part of the histories, with tokens of the owners of their events.
        """
        if self.model is None:
            return torch.empty(len(histories), 0, 1)
        peers = self.owners.peers
        edges = len(histories) * np.arange(peers.world_size + 1) // peers.world_size
        first, last = edges[peers.rank : peers.rank + 2]
        recent = [history[-self.model.config.max_length :] for history in histories[first:last]]
        events = np.concatenate([np.empty(0, np.int64), *recent])
        distinct, index = np.unique(events, return_inverse=True)
        plan = self._plan(torch.from_numpy(distinct))
        tokens = [
            peers.swap("rows", part, plan.sent, plan.received)
            for part in self.own.tokens(plan.wanted)
        ]
        ends = np.cumsum([len(history) for history in recent])[:-1]
        numbered = np.split(index.astype(np.int32), ends) if recent else []
        inputs = self.model.encoder_inputs(tokens, self.own.shared)
        vectors = encode_histories(self.model, numbered, inputs, self.own.vectors)
        return peers.gather("queries", vectors, np.diff(edges).tolist())

    def ranking(self, histories: list[History]) -> ShardQueries:
        """Return the scores of all items for B histories."""
        return ShardQueries(self.queries(histories), self.owners)

    def queries(self, histories: list[History]) -> Queries:
        """Return all that is needed to score the own items for B histories."""
        shards, device = self.owners.shards, self.own.vectors.device
        sparse = [] if self.memory is None else [self.memory.scores(histories)]
        if SEEN in self.weight_of:
            sparse.append(seen_items(histories, self.num_items))
        own = tuple(s.between(shards.first, shards.last).to(device) for s in sparse)
        return Queries(self.user_vectors(histories), self.own.vectors, own)

    def _plan(self, items: Tensor) -> Plan:
        """Plan the exchange of rows of the items, which ascend, with their owners. Collective."""
        plan = plan_rows(items, self.owners.shards, self.owners.planner)
        return plan._replace(wanted=plan.wanted.to(self.own.vectors.device))
