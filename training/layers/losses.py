"""Softmax cross-entropy over all items in every channel (Eq. 23-24), in chunks of items.

P prefixes, C channels, X items, n of them in a chunk, D width.

The scores of a chunk are added to a running log-sum-exp. If those of all channels, and the item
vectors, fit into SAVED_BYTES they are kept for the backward pass. Otherwise they are dropped and
computed again, so memory holds P x n scores and, for a channel with item vectors Ahat E (Eq. 6), n
x D vectors. A chunk on a CPU stays in its cache. A GPU gets larger ones: the host needs longer to
launch the kernels of a small one than the GPU to run them.

Where ranks own items, each scores its own items for the prefixes of all ranks (softmax_group.py).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.data.device_matrices import BLOCK, DeviceGraph
from training.layers.softmax_group import SoftmaxGroup
from training.sharding.owners import Owners

SAVED_BYTES = 256 << 20  # scores and vectors of all channels up to this size are kept
CHUNK_BYTES = 8 << 20  # size of the scores of a chunk, or twice that if it then has all items
GPU_SAVED_BYTES = 2 << 30  # the same on a GPU, where kept scores are in one chunk
GPU_CHUNK_BYTES = 1 << 30
EPS = 1e-12  # least length to divide a vector by, as in torch's normalize


class Channel(NamedTuple):
    """The source of a channel's item vectors."""

    table: int  # index of a table
    graph: DeviceGraph | None  # Ahat, which is multiplied by the table; None: the table itself

    def vectors(self, tables: Sequence[Tensor], first: int, last: int) -> Tensor:
        """Return the vectors of items first <= item < last [n, D]."""
        if self.graph is None:
            return tables[self.table][first:last]
        return self.graph.between(first, last).times(tables[self.table])


def full_softmax_loss(
    queries_CPD: Tensor,
    targets_P: Tensor,
    channels: Sequence[Channel],
    tables: Sequence[Tensor],
    unit: bool = False,
    owners: Owners | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of each channel, summed over the prefixes -> [C] (Eq. 24).

    Every table is [X, D] and gets one gradient of that size, whatever the number of channels.
    `unit` scales the item vectors to length 1. With `owners` a table starts with the n items that
    this rank owns [n + h, D], and targets are those of all items; then it is collective. Items
    that are `excluded`, bool [X] or [n], are not in the softmax; no target is.
    """
    queries_CPD = queries_CPD.to(tables[0].dtype)
    num_items = len(tables[0]) if owners is None else owners.shards.num_own
    group = SoftmaxGroup(owners, queries_CPD.shape[1])
    P, D, on_gpu = group.num_prefixes, tables[0].shape[1], queries_CPD.is_cuda
    number = queries_CPD.element_size()
    all_bytes = number * (P + D) * num_items * len(channels)  # scores and item vectors
    keeps = all_bytes <= (GPU_SAVED_BYTES if on_gpu else SAVED_BYTES)
    size_of_chunk = _gpu_chunk if on_gpu else _cpu_chunk
    chunk = size_of_chunk(num_items, number * max(P, D), keeps)
    items = _Items(num_items, chunk, keeps, channels, unit, excluded)
    losses: Tensor = _FullSoftmax.apply(items, group, queries_CPD, targets_P, *tables)  # type: ignore[no-untyped-call]
    return losses


def plain_full_softmax_loss(
    queries_CPD: Tensor, targets_P: Tensor, vectors: Sequence[Tensor]
) -> Tensor:
    """Return what `full_softmax_loss` does, with all scores in memory; `vectors` are by channel."""
    scores = [
        query_PD @ items_XD.T for query_PD, items_XD in zip(queries_CPD, vectors, strict=True)
    ]
    losses = [torch.nn.functional.cross_entropy(s, targets_P, reduction="sum") for s in scores]
    return torch.stack(losses)


def _cpu_chunk(num_items: int, bytes_per_item: int, keeps: bool) -> int:
    in_one_chunk = bytes_per_item * num_items <= 2 * CHUNK_BYTES
    return max(1, num_items if in_one_chunk else CHUNK_BYTES // bytes_per_item)


def _gpu_chunk(num_items: int, bytes_per_item: int, keeps: bool) -> int:
    if keeps:
        return max(1, num_items)
    return max(BLOCK, GPU_CHUNK_BYTES // bytes_per_item // BLOCK * BLOCK)


class _Items(NamedTuple):
    """The items that are scored, and how."""

    number: int
    chunk: int
    keeps: bool  # the scores, until the backward pass
    channels: Sequence[Channel]
    unit: bool
    excluded: Tensor | None

    def scores(self, query_PD: Tensor, items_ND: Tensor, first: int, dtype: torch.dtype) -> Tensor:
        """Return the scores of a chunk, which starts at item `first`, -inf for excluded items."""
        scores = (query_PD.to(dtype) @ items_ND.T.to(dtype)).to(query_PD.dtype)
        if self.excluded is not None:
            scores.masked_fill_(self.excluded[first : first + len(items_ND)], -torch.inf)
        return scores

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield first and last + 1 of the items of each chunk."""
        for first in range(0, self.number, self.chunk):
            yield first, min(first + self.chunk, self.number)


class _Targets:
    """The targets of the prefixes among the items of a chunk."""

    def __init__(self, target_P: Tensor, items: _Items, group: SoftmaxGroup) -> None:
        self._target_P = target_P
        self._has_all = items.chunk >= items.number and not group.shares_items
        self._chunk: tuple[int, int] | None = None
        self._index, self._inside = target_P[:, None], target_P
        self._minus_one: Tensor | None = None

    def own_scores(self, scores: Tensor, first: int, before: Tensor | None) -> Tensor:
        """Return the scores of the targets in the chunk, and those of the others `before` [P].

        None means zeros.
        """
        if self._has_all:
            return scores.gather(1, self._index)[:, 0]
        self._move_to(first, scores.shape[1])
        own = scores.gather(1, self._index)[:, 0]
        return torch.where(self._inside, own, torch.zeros_like(own) if before is None else before)

    def subtract_one(self, error: Tensor, first: int) -> None:
        """Subtract 1 at the target: the gradient of the scores is the probability, less 1 there."""
        if self._has_all:
            if self._minus_one is None:
                self._minus_one = error.new_full(self._index.shape, -1.0)
            error.scatter_add_(1, self._index, self._minus_one)
            return
        self._move_to(first, error.shape[1])
        error.scatter_add_(1, self._index, -self._inside[:, None].to(error.dtype))

    def _move_to(self, first: int, count: int) -> None:
        """Find the targets as indexes into a chunk [P, 1], and which of them are in it [P]."""
        if self._chunk != (first, count):
            index = self._target_P - first
            self._chunk, self._index = (first, count), index.clamp(0, count - 1)[:, None]
            self._inside = (index >= 0) & (index < count)


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        items: _Items,
        group: SoftmaxGroup,
        q_CPD: Tensor,
        target_P: Tensor,
        *tables: Tensor,
    ) -> Any:
        ctx.items, ctx.group, ctx.saved = items, group, {}
        ctx.dtype = dtype = _autocast_dtype(q_CPD)
        q_CPD, target_P = group.all_gather(q_CPD, target_P)
        ctx.targets = targets = _Targets(target_P, items, group)
        sums_of_channels, own_of_channels = [], []
        for c, channel in enumerate(items.channels):
            log_sums = own = None  # own: scores of the targets
            for first, last in items.chunks():
                vectors = channel.vectors(tables, first, last)
                vectors, lengths = _normalize_rows(vectors) if items.unit else (vectors, None)
                scores = items.scores(q_CPD[c], vectors, first, dtype)
                own = targets.own_scores(scores, first, own)
                sums, maxima = _log_sum_exp(scores)
                log_sums = sums if log_sums is None else torch.logaddexp(log_sums, sums)
                if items.keeps:
                    ctx.saved[c, first] = vectors, lengths, scores, maxima
            if log_sums is None or own is None:  # this rank owns no item
                own = q_CPD.new_zeros(target_P.shape)
                log_sums = own - torch.inf
            sums_of_channels.append(log_sums)
            own_of_channels.append(own)
        log_sums = torch.stack(sums_of_channels)
        log_sums, own = group.all_reduce(log_sums, torch.stack(own_of_channels))
        ctx.save_for_backward(q_CPD, log_sums, *tables)
        return (log_sums - own)[:, group.own].sum(dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q_CPD, log_sums, *tables = ctx.saved_tensors
        items, group = ctx.items, ctx.group
        weighted = q_CPD * group.loss_gradients(gradients[0])[..., None]
        of_queries = torch.zeros_like(q_CPD)
        in_place = [group.adds_in_place(table) for table in tables]
        of_tables = [
            table.grad if is_own else torch.zeros_like(table)
            for table, is_own in zip(tables, in_place, strict=True)
        ]
        for c, channel in enumerate(items.channels):
            for first, last in items.chunks():
                if items.keeps:
                    vectors, lengths, scores, maxima = ctx.saved.pop((c, first))
                else:
                    maxima = None
                    vectors = channel.vectors(tables, first, last)
                    vectors, lengths = _normalize_rows(vectors) if items.unit else (vectors, None)
                    scores = items.scores(q_CPD[c], vectors, first, ctx.dtype)
                error = _probabilities(scores, maxima, log_sums[c])
                ctx.targets.subtract_one(error, first)
                error = error.to(ctx.dtype)
                _add_product(of_queries[c], error, vectors.to(ctx.dtype))
                of_table, right = of_tables[channel.table], weighted[c].to(ctx.dtype)
                if channel.graph is None and lengths is None:
                    _add_product(of_table[first:last], error.T, right)
                    continue
                of_items = (error.T @ right).to(of_table.dtype)
                if lengths is not None:
                    of_items = _normalize_rows_backward(of_items, vectors, lengths)
                if channel.graph is None:
                    of_table[first:last] += of_items
                else:
                    channel.graph.add_transposed(first, of_table, of_items, len(tables[0]))
        of_queries = group.reduce_scatter(of_queries) * gradients[0][:, None, None]
        returned = (None if is_own else g for g, is_own in zip(of_tables, in_place, strict=True))
        return None, None, of_queries, None, *returned


def _log_sum_exp(scores: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the log-sum-exp of the rows of scores [P, n], and m, the highest score of each [P].

    On a CPU the scores become exp(score - m), which the backward pass needs too, and nothing is
    written to new memory. On a GPU they stay, and m is None.
    """
    if scores.is_cuda:
        return torch.logsumexp(scores, dim=1), None
    maxima = scores.amax(dim=1).clamp_min_(torch.finfo(scores.dtype).min)  # all may be -inf
    sums = scores.sub_(maxima[:, None]).exp_().sum(dim=1)
    return sums.log_().add_(maxima), maxima


def _probabilities(scores: Tensor, maxima: Tensor | None, log_sums: Tensor) -> Tensor:
    """Replace scores [P, n], or their exponentials below `maxima`, by probabilities."""
    if maxima is None:
        return scores.sub_(log_sums[:, None]).exp_()
    return scores.mul_((maxima - log_sums).exp_()[:, None])


def _normalize_rows(rows_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows scaled to length 1, zero rows unchanged, and their lengths [N, 1]."""
    rows_ND = rows_ND.to(torch.promote_types(rows_ND.dtype, torch.float32))
    lengths = rows_ND.norm(dim=1, keepdim=True).clamp_min(EPS)
    return rows_ND / lengths, lengths


def _normalize_rows_backward(gradient_ND: Tensor, unit_ND: Tensor, lengths: Tensor) -> Tensor:
    """Return the gradient of the rows from that of the scaled rows `unit_ND`."""
    along = (gradient_ND * unit_ND).sum(dim=1, keepdim=True)
    return gradient_ND.addcmul_(unit_ND, along, value=-1).div_(lengths)


def _autocast_dtype(like: Tensor) -> torch.dtype:
    """Return the dtype of matrix products. Autocast does not reach a backward written by hand."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == out.dtype:
        torch.addmm(out, left, right, out=out)
    else:
        out += left @ right
