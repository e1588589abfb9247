"""Softmax cross-entropy over all items in every channel (Eq. 23-24), in tiles of scores.

P prefixes, C channels, X items, n of them, D width.

The scores of a tile are added to a running log-sum-exp. If those of all channels, and the item
vectors, fit into SAVED_BYTES (softmax_tiles.py) they are kept for the backward pass. Otherwise they
are dropped and computed again, so memory holds a tile of scores and, for a channel with item
vectors Ahat E (Eq. 6), the vectors of a chunk.

Where ranks own items, each scores its own items for the prefixes of all ranks (softmax_group.py).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.data.device_matrices import DeviceGraph
from training.losses.softmax_group import SoftmaxGroup
from training.losses.softmax_tiles import Targets, Tiles, tiles_of
from training.losses.tile_arithmetic import (
    dtype_of_scores,
    log_sum_exp,
    normalize_rows,
    normalize_rows_backward,
    probabilities,
    write_product,
)
from training.sharding.owners import Owners


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
    tiles = tiles_of(group.num_prefixes, num_items, len(channels), tables[0])
    items = _Items(tiles, channels, unit, excluded)
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


class _Block(NamedTuple):
    """A block of items, as the backward pass needs it."""

    vectors: Tensor  # [n, D]
    lengths: Tensor | None  # that the vectors had, if they are scaled
    scores: dict[int, tuple[Tensor, Tensor | None]]  # by first prefix, as `log_sum_exp` left them


class _Items(NamedTuple):
    """The items that are scored, and how."""

    tiles: Tiles
    channels: Sequence[Channel]
    unit: bool
    excluded: Tensor | None

    def block(self, vectors_nD: Tensor) -> _Block:
        """Return a block of items without scores, from their vectors."""
        vectors, lengths = normalize_rows(vectors_nD) if self.unit else (vectors_nD, None)
        return _Block(vectors, lengths, {})

    def scores(self, queries_PD: Tensor, vectors_nD: Tensor, items: slice) -> Tensor:
        """Return the scores of `items`, which have these vectors, -inf for excluded ones [P, n]."""
        scores = (queries_PD @ vectors_nD.T).to(dtype_of_scores(queries_PD.dtype))
        if self.excluded is not None:
            scores.masked_fill_(self.excluded[items], -torch.inf)
        return scores


class _Prefixes(NamedTuple):
    """The prefixes' values that the backward pass of a channel reads and writes."""

    queries: Tensor  # [P, D]
    weighted: Tensor  # [P, D], queries times the gradient of the prefix's loss
    log_sums: Tensor  # [P]
    of_queries: Tensor  # [P, D]


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
        ctx.items, ctx.group, ctx.blocks = items, group, {}
        ctx.dtype = _autocast_dtype(q_CPD)
        q_CPD, target_P = group.all_gather(q_CPD, target_P)
        ctx.targets = Targets(target_P, items.tiles, group)
        found = [_channel_forward(ctx, c, q_CPD[c], tables) for c in range(len(items.channels))]
        sums, own = (torch.stack(of_channels) for of_channels in zip(*found, strict=True))
        sums, own = group.all_reduce(sums, own)
        ctx.save_for_backward(q_CPD, sums, *tables)
        return (sums - own)[:, group.own].sum(dim=1)

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
            factors = q_CPD[c].to(ctx.dtype), weighted[c].to(ctx.dtype)
            prefixes = _Prefixes(*factors, log_sums[c], of_queries[c])
            _channel_backward(ctx, c, prefixes, tables, of_tables[channel.table])
        of_queries = group.reduce_scatter(of_queries) * gradients[0][:, None, None]
        returned = (None if is_own else g for g, is_own in zip(of_tables, in_place, strict=True))
        return None, None, of_queries, None, *returned


def _channel_forward(
    ctx: Any, c: int, queries_PD: Tensor, tables: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exp over this rank's items, and the scores of its targets [P] each."""
    items, tiles = ctx.items, ctx.items.tiles
    log_sums: dict[int, Tensor] = {}  # by the first prefix of a tile
    own: dict[int, Tensor] = {}
    factors_PD = queries_PD.to(ctx.dtype)
    for chunk in tiles.chunks():
        of_chunk = items.channels[c].vectors(tables, chunk.start, chunk.stop)
        for block in tiles.blocks(chunk):
            kept = items.block(of_chunk[_within(chunk, block)])
            factors_nD = kept.vectors.to(ctx.dtype)
            for part in tiles.parts():
                p, scores = part.start, items.scores(factors_PD[part], factors_nD, block)
                own[p] = ctx.targets.scores(scores, part, block, own.get(p))
                sums, maxima = log_sum_exp(scores)
                log_sums[p] = torch.logaddexp(log_sums[p], sums) if p in log_sums else sums
                if tiles.keeps:
                    kept.scores[p] = scores, maxima
                del scores  # before the next tile is made
            if tiles.keeps:
                ctx.blocks[c, block.start] = kept
            del kept, factors_nD
    if not own:  # this rank owns no item
        zeros = queries_PD.new_zeros(len(queries_PD), dtype=dtype_of_scores(ctx.dtype))
        return zeros - torch.inf, zeros
    return _joined(log_sums), _joined(own)


def _channel_backward(
    ctx: Any, c: int, prefixes: _Prefixes, tables: Sequence[Tensor], of_table: Tensor
) -> None:
    """Add the gradients of a channel's queries and of its table."""
    items, tiles, channel = ctx.items, ctx.items.tiles, ctx.items.channels[c]
    is_table = channel.graph is None
    for chunk in tiles.chunks():
        of_chunk = of_table[chunk] if is_table else torch.empty_like(of_table[chunk])
        vectors = None if tiles.keeps else channel.vectors(tables, chunk.start, chunk.stop)
        for block in tiles.blocks(chunk):
            within = _within(chunk, block)
            if vectors is None:
                kept = ctx.blocks.pop((c, block.start))
            else:
                kept = items.block(vectors[within])
            _block_backward(ctx, block, kept, prefixes, of_chunk[within], adds=is_table)
        if channel.graph is not None:
            channel.graph.add_transposed(chunk.start, of_table, of_chunk, len(tables[0]))


def _block_backward(
    ctx: Any, block: slice, kept: _Block, prefixes: _Prefixes, of_items_nD: Tensor, adds: bool
) -> None:
    """Add the gradients of the queries, and write or add those of a block of items."""
    factors_nD = kept.vectors.to(ctx.dtype)
    adds_scaled = adds and kept.lengths is not None
    of_vectors = torch.empty_like(kept.vectors) if adds_scaled else of_items_nD
    for number, part in enumerate(ctx.items.tiles.parts()):
        scores, maxima = kept.scores.pop(part.start, (None, None))
        if scores is None:
            scores = ctx.items.scores(prefixes.queries[part], factors_nD, block)
        error = probabilities(scores, maxima, prefixes.log_sums[part])
        ctx.targets.subtract_one(error, part, block)
        error = error.to(ctx.dtype)
        write_product(prefixes.of_queries[part], error, factors_nD, adds=True)
        adds_part = number > 0 or (adds and not adds_scaled)
        write_product(of_vectors, error.T, prefixes.weighted[part], adds=adds_part)
        del scores, error  # before the next tile is made
    if kept.lengths is not None:
        normalize_rows_backward(of_vectors, kept.vectors, kept.lengths)
    if adds_scaled:
        of_items_nD += of_vectors


def _within(chunk: slice, items: slice) -> slice:
    """Return the items as rows of the chunk."""
    return slice(items.start - chunk.start, items.stop - chunk.start)


def _joined(of_prefixes: dict[int, Tensor]) -> Tensor:
    """Return the values of all prefixes from those of the tiles' prefixes."""
    parts = list(of_prefixes.values())
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _autocast_dtype(like: Tensor) -> torch.dtype:
    """Return the dtype of matrix products. Autocast does not reach a backward written by hand."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
