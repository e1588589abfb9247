"""Exact ranks by counting, and the top-k items, over tiles of items.

B targets or users, C channels (K of them dense), S weighted sums of channels, D width, X items, n
of them in a tile.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from training.device import product_precision
from training.layers.linear import ROWS
from training.layers.sparse_scores import SparseScores

LANES = 64  # a tile of another width has an odd end, where a matrix product may round differently


class Scored(Protocol):
    """Vectors of B queries and of all items, and the scores of the sparse channels."""

    @property
    def vectors(self) -> Tensor: ...  # [B, K, D]
    @property
    def items(self) -> Tensor: ...  # [K, X, D]
    @property
    def sparse(self) -> Sequence[SparseScores]: ...


class Tiles:
    """Scores of B queries for all items, one tile at a time; each tile overwrites the buffer.

    `sums` [S, C] are the weights of the channels in each sum. Every tile is `block` items wide,
    rounded up to a multiple of LANES. The last tile overlaps the one before; fewer items than one
    tile, and fewer queries than ROWS, are padded. So all scores come from products of one width:
    equal items have equal scores, and those of a query do not depend on the other queries.
    """

    def __init__(self, queries: Scored, sums: Tensor, block: int, of_all: int = 0) -> None:
        """Take the items of `queries`, which are some `of_all` items where ranks own them."""
        self._num_queries = len(queries.vectors)
        padding = 0, 0, 0, 0, 0, max(0, ROWS - self._num_queries)
        self._queries_KBD = F.pad(queries.vectors, padding).transpose(0, 1).contiguous()
        self._sparse = queries.sparse
        self._sums, self._num_items = sums.tolist(), queries.items.shape[1]
        self.width = LANES * -(-min(block, max(of_all, self._num_items)) // LANES)
        missing = self.width - self._num_items
        self.items = F.pad(queries.items, (0, 0, 0, missing)) if missing > 0 else queries.items
        self._total = queries.vectors.new_zeros(())
        self._buffer = self.new_buffer(self.width)

    def new_buffer(self, width: int) -> Tensor:
        """Allocate the scores of `width` items, [S + C, B, width]."""
        rows = len(self._sums) + len(self._queries_KBD) + len(self._sparse)
        return self._total.new_empty(rows, self._queries_KBD.shape[1], width)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first new item of each tile and the scores from it on [S + C, B, n].

        Raises ValueError at the end if any score is not finite.
        """
        starts = range(0, self._num_items, self.width)
        first_items = [min(start, self.items.shape[1] - self.width) for start in starts]
        blocks_of_channels = [s.blocks(first_items, self.width) for s in self._sparse]
        for number, (start, first) in enumerate(zip(starts, first_items, strict=True)):
            scores = self._buffer
            for channel, blocks in zip(self._sparse_rows(scores), blocks_of_channels, strict=True):
                blocks[number].write_to(channel)
            self.score(self.items[:, first : first + self.width], scores)
            yield start, scores[:, : self._num_queries, start - first : self._num_items - first]
        if not torch.isfinite(self._total):
            raise ValueError("a score is not finite: the weights or vectors are damaged")

    def score(self, items_KnD: Tensor, out: Tensor) -> None:
        """Write each channel's scores (Eq. 20-21) and their sums (Eq. 22) to `out` [S + C, B, n].

        The scores of the sparse channels are in the last rows already.
        """
        num_sums = len(self._sums)
        sums, channels = out[:num_sums], out[num_sums:]
        with product_precision("fp32"):
            torch.bmm(self._queries_KBD, items_KnD.transpose(1, 2), out=channels[: len(items_KnD)])
        for weights, whole in zip(self._sums, sums, strict=True):
            torch.mul(channels[0], weights[0], out=whole)
            for channel, weight in zip(channels[1:], weights[1:], strict=True):
                whole.add_(channel, alpha=weight)
            self._total += whole.sum()

    def expected_scores(self, targets: Tensor) -> Tensor:
        """Return the scores of the targets, computed in a tile of only targets -> [S + C, B].

        They usually equal those in the tiles of all items bit by bit, which makes one pass over the
        items enough. `count_channels` repeats the pass where they do not. A GPU chooses the kernel
        of a product by its width, so there the targets fill tiles of the width of all others.
        """
        width = self.width if targets.is_cuda else max(LANES, len(targets) + -len(targets) % LANES)
        scores = self._buffer if targets.is_cuda else self.new_buffer(width)
        of_targets = []
        for first in range(0, max(1, len(targets)), width):
            some = targets[first : first + width]
            for channel, sparse in zip(self._sparse_rows(scores), self._sparse, strict=True):
                own = channel.zero_()[: self._num_queries]
                own.copy_(sparse.at(targets[:, None]).expand_as(own))
            self.score(self.items[:, F.pad(some, (0, width - len(some)))], scores)
            own = scores[:, first : first + len(some), : len(some)]
            of_targets.append(own.diagonal(dim1=1, dim2=2).clone())
        return torch.cat(of_targets, dim=1)

    def _sparse_rows(self, scores: Tensor) -> Tensor:
        """Return the rows of the sparse channels, which are the last."""
        return scores[len(scores) - len(self._sparse) :]


def count_channels(
    queries: Scored, sums: Tensor, targets: Tensor, block: int, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Count the items that score above each target, and those that tie -> int64 [B, S + C] each.

    `sums` [S, C], `targets` [B]. Column s is for the s-th weighted sum of the channels' scores (Eq.
    22); column S + c is for channel c. `seen` [pairs, 2] holds distinct pairs (row, item) that do
    not count, except for the row's target.

    A target is compared by its score in the tile that contains it, so equal items tie exactly.
    Memory is B x `block` per channel. Raises ValueError if a score is not finite.
    """
    if seen is not None:
        seen = seen[seen[:, 1] != targets[seen[:, 0]]]
    tiles = Tiles(queries, sums, block)
    own = tiles.expected_scores(targets)
    while True:
        in_tiles, better, equal = count_against(own, tiles, targets, seen)
        if torch.equal(in_tiles, own):
            return better.T, equal.T - 1  # a target equals itself
        own = in_tiles


def count_against(
    own: Tensor, tiles: Tiles, targets: Tensor, seen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the targets' scores in their tiles, and how many items score above and equal `own`."""
    in_tiles, better = own.clone(), torch.zeros_like(own, dtype=torch.int64)
    equal = torch.zeros_like(better)
    for start, scores in tiles:
        stop = start + scores.shape[-1]
        inside = ((targets >= start) & (targets < stop)).nonzero().squeeze(1)
        in_tiles[:, inside] = scores[:, inside, targets[inside] - start]
        better += (scores > own[..., None]).sum(-1)
        equal += (scores == own[..., None]).sum(-1)
        if seen is not None:
            row, column = _pairs_in_tile(seen, start, stop)
            excluded = scores[:, row, column]
            better.index_add_(1, row, (excluded > own[:, row]).long(), alpha=-1)
            equal.index_add_(1, row, (excluded == own[:, row]).long(), alpha=-1)
    return in_tiles, better, equal


def top_k_items(
    queries: Scored,
    weights: Tensor,
    k: int,
    block: int,
    seen: Tensor,
    wanted: Tensor | None = None,
    of_all: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the k highest whole scores [B, k] and their items [B, k]; ties are ordered by item.

    `weights` [C] are those of the channels in the whole score. The pairs (row, item) in `seen`
    [pairs, 2] are left out, and so are items that `wanted` (bool [X]) does not mark. A row with
    fewer items ends in -inf. The items of `queries` are some of `of_all` where processes own items.
    """
    best = queries.vectors.new_full((len(queries.vectors), k), -torch.inf)
    best_items = torch.full_like(best, queries.items.shape[1], dtype=torch.int64)
    for start, (scores, *_) in Tiles(queries, weights[None], block, of_all):
        stop = start + scores.shape[1]
        row, column = _pairs_in_tile(seen, start, stop)
        scores[row, column] = -torch.inf
        if wanted is not None:
            scores.masked_fill_(~wanted[start:stop], -torch.inf)
        rows = (scores.amax(1) > best[:, -1]).nonzero().squeeze(1)
        ids = torch.arange(start, stop, device=scores.device)
        candidates = torch.cat([best[rows], scores[rows]], dim=1)
        candidate_ids = torch.cat([best_items[rows], ids.expand(len(rows), -1)], dim=1)
        best[rows], best_items[rows] = _top_k(candidates, candidate_ids, k)
    return best, best_items


def _pairs_in_tile(pairs: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return row and column in the tile of items [start, stop) of the pairs in it."""
    row, item = pairs[(pairs[:, 1] >= start) & (pairs[:, 1] < stop)].unbind(1)
    return row, item - start


def _top_k(scores: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest scores of each row and their ids; ties are ordered by id."""
    best, index = torch.topk(scores, k, dim=1)
    least = best[:, -1:]
    # topk chooses freely among ties: sort the rows again where it left out a tie with the last.
    cut = (scores == least).sum(1) > (best == least).sum(1)
    if cut.any():
        by_id = torch.sort(ids[cut], dim=1).indices
        order = torch.sort(scores[cut].gather(1, by_id), dim=1, descending=True, stable=True)
        index[cut] = by_id.gather(1, order.indices[:, :k])
        best[cut] = order.values[:, :k]
    ids = ids.gather(1, index)
    by_id = torch.sort(ids, dim=1).indices
    order = torch.sort(best.gather(1, by_id), dim=1, descending=True, stable=True)
    return order.values, ids.gather(1, by_id).gather(1, order.indices)
