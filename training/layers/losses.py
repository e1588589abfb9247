"""Softmax cross-entropy over all items in every channel (Eq. 23-24), in chunks of items.

P prefixes, C channels, X items, D width.

A chunk's scores are made, added to a running log-sum-exp and forgotten; the backward pass makes
them again. So memory holds P x chunk scores, and neither P x X of them nor, for a channel whose
item vectors are Ahat E (Eq. 6), X x D vectors. Where they are few they are kept.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.data.sparse import DeviceMatrix

KEPT_BYTES = 16 << 20  # of a channel's scores that stay in memory
CHUNK_BYTES = 8 << 20  # of a chunk's, where they are more
EPS = 1e-12  # the least length that a vector is divided by, as in torch's normalize


class Channel(NamedTuple):
    """Where the item vectors of a channel come from."""

    table: int  # which of the tables
    graph: DeviceMatrix | None  # Ahat, whose product with the table they are; none: its own rows

    def vectors(self, tables: Sequence[Tensor], first: int, last: int) -> tuple[Tensor, Any]:
        """Items first <= item < last [n, D], and the graph's entries they were made by."""
        if self.graph is None:
            return tables[self.table][first:last], None
        entries = self.graph.between(first, last)
        return entries.times(tables[self.table]), entries


def full_softmax_loss(
    queries_CPD: Tensor,
    targets_P: Tensor,
    channels: Sequence[Channel],
    tables: Sequence[Tensor],
    unit: bool = False,
) -> Tensor:
    """Cross-entropy of each channel, summed over the prefixes -> [C] (Eq. 24).

    Every table is [X, D] and gets a gradient of its own size, whatever the number of channels.
    `unit` scores by the items' vectors at length 1.
    """
    wider = max(len(targets_P), tables[0].shape[1])  # a chunk has scores, and vectors of a graph
    bytes_an_item = queries_CPD.element_size() * wider
    at_once = bytes_an_item * len(tables[0]) <= KEPT_BYTES
    chunk = len(tables[0]) if at_once else max(1, CHUNK_BYTES // bytes_an_item)
    queries_CPD = queries_CPD.to(tables[0].dtype)
    losses: Tensor = _ItemSoftmax.apply(chunk, channels, unit, queries_CPD, targets_P, *tables)  # type: ignore[no-untyped-call]
    return losses


def plain_full_softmax_loss(
    queries_CPD: Tensor, targets_P: Tensor, vectors: Sequence[Tensor]
) -> Tensor:
    """`full_softmax_loss` as it is written, with every score in memory; `vectors` are the channels'."""
    scores = [
        query_PD @ items_XD.T for query_PD, items_XD in zip(queries_CPD, vectors, strict=True)
    ]
    losses = [torch.nn.functional.cross_entropy(s, targets_P, reduction="sum") for s in scores]
    return torch.stack(losses)


class _ItemSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        chunk: int,
        channels: Sequence[Channel],
        unit: bool,
        q_CPD: Tensor,
        target_P: Tensor,
        *tables: Tensor,
    ) -> Any:
        num_items = len(tables[0])
        ctx.chunk, ctx.channels, ctx.unit, ctx.kept = chunk, channels, unit, {}
        ctx.dtype = dtype = _product_dtype(q_CPD)
        total = q_CPD.new_full(q_CPD.shape[:2], -torch.inf)
        own = torch.zeros_like(total)
        for c, channel in enumerate(channels):
            for first in range(0, num_items, chunk):
                items, entries = channel.vectors(tables, first, min(first + chunk, num_items))
                items, lengths = _unit_rows(items) if unit else (items, None)
                scores = _scores(q_CPD[c], items, dtype)
                place, inside = _place(target_P, first, len(items))
                found = scores.gather(1, place)[:, 0]
                own[c] = torch.where(inside, found, own[c])
                total[c] = torch.logaddexp(total[c], torch.logsumexp(scores, dim=1))
                if chunk >= num_items:
                    ctx.kept[c] = items, lengths, entries, scores
        ctx.save_for_backward(q_CPD, target_P, total, *tables)
        return (total - own).sum(dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q_CPD, target_P, total, *tables = ctx.saved_tensors
        weighted = q_CPD * gradients[0][:, None, None]
        of_queries = torch.zeros_like(q_CPD)
        of_tables = [torch.zeros_like(table) for table in tables]
        num_items = len(tables[0])
        for c, channel in enumerate(ctx.channels):
            for first in range(0, num_items, ctx.chunk):
                last = min(first + ctx.chunk, num_items)
                if c in ctx.kept:
                    items, lengths, entries, scores = ctx.kept.pop(c)
                else:
                    items, entries = channel.vectors(tables, first, last)
                    items, lengths = _unit_rows(items) if ctx.unit else (items, None)
                    scores = _scores(q_CPD[c], items, ctx.dtype)
                error = scores.sub_(total[c][:, None]).exp_()  # probability - 1 of the target
                place, inside = _place(target_P, first, len(items))
                error.scatter_add_(1, place, -inside[:, None].to(error.dtype))
                error = error.to(ctx.dtype)
                _add_product(of_queries[c], error, items.to(ctx.dtype))
                of_table, right = of_tables[channel.table], weighted[c].to(ctx.dtype)
                if entries is None and lengths is None:
                    _add_product(of_table[first:last], error.T, right)
                    continue
                of_items = (error.T @ right).to(of_table.dtype)
                if lengths is not None:
                    of_items = _through_unit_rows(of_items, items, lengths)
                if entries is None:
                    of_table[first:last] += of_items
                else:
                    entries.add_transposed(of_table, of_items)
        return None, None, None, of_queries * gradients[0][:, None, None], None, *of_tables


def _unit_rows(rows_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The rows at length 1, a row of zeros as it is; and their lengths [N, 1]."""
    rows_ND = rows_ND.to(torch.promote_types(rows_ND.dtype, torch.float32))
    lengths = rows_ND.norm(dim=1, keepdim=True).clamp_min(EPS)
    return rows_ND / lengths, lengths


def _through_unit_rows(gradient_ND: Tensor, unit_ND: Tensor, lengths: Tensor) -> Tensor:
    """The gradient of rows, from that of the same rows at length 1."""
    along = (gradient_ND * unit_ND).sum(dim=1, keepdim=True)
    return gradient_ND.addcmul_(unit_ND, along, value=-1).div_(lengths)


def _place(target_P: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Where each target stands in a chunk of `count` items [P, 1], and whether it does [P]."""
    place = target_P - first
    return place.clamp(0, count - 1)[:, None], (place >= 0) & (place < count)


def _product_dtype(like: Tensor) -> torch.dtype:
    """What autocast, which knows nothing of a backward pass written by hand, multiplies in."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype


def _scores(query_PD: Tensor, items_ND: Tensor, dtype: torch.dtype) -> Tensor:
    return (query_PD.to(dtype) @ items_ND.T.to(dtype)).to(query_PD.dtype)


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == out.dtype:
        torch.addmm(out, left, right, out=out)
    else:
        out += left @ right
