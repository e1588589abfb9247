"""Queries: all that is needed to score every item for a batch of histories, channel by channel.

B histories, X items, n of them, C channels, K of them dense, D width, S weighted sums of channels.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.layers.scoring import count_channels, top_k_items
from training.layers.sparse_scores import SparseScores


class Ranking(Protocol):
    """Scores of all items for B histories, whoever holds the items.

    Items and weights may be in host memory.
    """

    @property
    def num_channels(self) -> int: ...
    def only(self, channel: int) -> "Ranking":
        """Return the same queries with one channel."""

    def count(
        self, sums: Tensor, targets: Tensor, block: int, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what `count_channels` does."""

    def top(
        self, weights: Tensor, k: int, block: int, seen: Tensor, wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what `top_k_items` does."""

    def scores_of(self, items_Bn: Tensor) -> Tensor:
        """Return the score of each channel for items of each history's own -> [B, n, C]."""


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

    def count(
        self, sums: Tensor, targets: Tensor, block: int, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Count the items that score above each target, and that tie -> int64 [B, S + C] each."""
        device = self.items.device
        seen = None if seen is None else seen.to(device)
        return count_channels(self, sums, targets.to(device), block, seen)

    def top(
        self, weights: Tensor, k: int, block: int, seen: Tensor, wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the k highest whole scores and their items -> [B, k] each."""
        device = self.items.device
        wanted = None if wanted is None else wanted.to(device)
        return top_k_items(self, weights, k, block, seen.to(device), wanted)

    def scores_of(self, items_Bn: Tensor) -> Tensor:
        """Return the score of each channel for items of each history's own -> [B, n, C]."""
        scores_BnK = torch.einsum("bkd,kbnd->bnk", self.vectors, self.items[:, items_Bn])
        return torch.cat([scores_BnK, *(s.at(items_Bn)[..., None] for s in self.sparse)], dim=2)
