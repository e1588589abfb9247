"""Collectives of the full softmax, where each rank scores the items that it owns.

Queries are gathered; every rank scores its own items for all of them. The log-sum-exps and the
scores of the targets are then combined, as for the vocabulary of Megatron-LM (Shoeybi et al., arXiv
1909.08053): one all-reduce of the largest, one of the sums. Gradients of queries return to their
ranks, where they are added up.

P prefixes of this rank, N of all ranks, C channels, D width.
"""

import torch
from torch import Tensor

from training.sharding.owners import Owners


class SoftmaxGroup:
    """The ranks that share a softmax. Its methods are collective if ranks own items."""

    def __init__(self, owners: Owners | None, num_prefixes: int) -> None:
        """Take the number of this rank's prefixes. None means that every rank scores all items."""
        self._owners = owners
        self._counts = [num_prefixes]
        self.own = slice(0, num_prefixes)
        if owners is not None:
            self._counts = owners.peers.gather_counts(num_prefixes)
            first = sum(self._counts[: owners.shards.rank])
            self.own = slice(first, first + num_prefixes)

    @property
    def shares_items(self) -> bool:
        """Return whether each rank scores its own items only."""
        return self._owners is not None

    @property
    def num_prefixes(self) -> int:
        return sum(self._counts)

    def all_gather(self, queries_CPD: Tensor, targets_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries [C, N, D] of all ranks, and the targets [N] as own items."""
        if self._owners is None:
            return queries_CPD, targets_P
        gather = self._owners.peers.gather
        queries_NCD = gather("queries", queries_CPD.transpose(0, 1).contiguous(), self._counts)
        targets_N = gather("queries", targets_P, self._counts) - self._owners.shards.first
        return queries_NCD.transpose(0, 1).contiguous(), targets_N

    def all_reduce(self, log_sums: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-sum-exp over the items of all ranks, and the targets' scores [C, N] each.

        `own` is 0 where another rank owns the target.
        """
        if self._owners is None:
            return log_sums, own
        peers = self._owners.peers
        largest = peers.max("log-sums", log_sums.clone())
        shifted = log_sums.sub_(largest).exp_()
        sums, own = peers.sum("log-sums", torch.stack([shifted, own]))
        return largest + sums.log(), own

    def loss_gradients(self, of_losses_C: Tensor) -> Tensor:
        """Return the gradient of every prefix's losses [C, N]; this rank's have `of_losses_C`.

        It differs between ranks where a model weights the loss of a batch.
        """
        if self._owners is None:
            return of_losses_C[:, None].expand(-1, self.num_prefixes)
        peers = self._owners.peers
        ranks = peers.gather("gradients of queries", of_losses_C[None], [1] * peers.world_size)
        parts = [of_C.expand(n, -1) for of_C, n in zip(ranks, self._counts, strict=True)]
        return torch.cat(parts).T

    def reduce_scatter(self, of_queries: Tensor) -> Tensor:
        """Return the gradient of this rank's queries [C, P, D], a sum over the ranks' items."""
        if self._owners is None:
            return of_queries
        peers, num_own = self._owners.peers, self._counts[self._owners.shards.rank]
        of_queries_NCD = of_queries.transpose(0, 1).contiguous()
        expected = [num_own] * peers.world_size
        found = peers.swap("gradients of queries", of_queries_NCD, self._counts, expected)
        return found.view(peers.world_size, num_own, *found.shape[1:]).sum(0).transpose(0, 1)

    def adds_in_place(self, table: Tensor) -> bool:
        """Return whether gradients are added to `table.grad`, where the owner's are."""
        return self._owners is not None and table.is_leaf and table.grad is not None
