"""Queries: all that is needed to score every item for a batch of histories, channel by channel.

B histories, X items, n of them, C channels, K of them dense, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.layers.sparse_scores import SparseScores


@dataclass(frozen=True)
class Queries:
    """K dense channels, whose scores are inner products, then the sparse channels."""

    vectors: Tensor  # [B, K, D]
    items: Tensor  # [K, X, D]
    sparse: tuple[SparseScores, ...] = ()

    @property
    def num_dense(self) -> int:
        return len(self.items)

    @property
    def num_channels(self) -> int:
        return self.num_dense + len(self.sparse)

    def only(self, channel: int) -> "Queries":
        """Return the same queries with one channel."""
        dense = slice(channel, channel + 1)
        place = channel - self.num_dense
        sparse = self.sparse[place : place + 1] if place >= 0 else ()
        return Queries(self.vectors[:, dense], self.items[dense], sparse)

    def scores_of(self, items_Bn: Tensor) -> Tensor:
        """Return the score of each channel for items of each history's own -> [B, n, C]."""
        scores_BnK = torch.einsum("bkd,kbnd->bnk", self.vectors, self.items[:, items_Bn])
        return torch.cat([scores_BnK, *(s.at(items_Bn)[..., None] for s in self.sparse)], dim=2)
