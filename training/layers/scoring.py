"""Exact ranks by counting, and the highest scores, a tile of items at a time.

B targets or users, C channels, D width, X items, n of them in a tile.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

LANES = 64  # tiles of a multiple have no odd end, where a product may round another way


class Tiles:
    """Scores of B queries among all items, a tile at a time, each in the room of the one before.

    `queries` [B, C, D], `items` [C, X, D], `weights` [C]. Every tile is `block` items wide, rounded
    up to a multiple of LANES (the last one reaches back, fewer items are filled up), so products
    of one shape make every score, and equal items have equal scores.
    """

    def __init__(self, queries: Tensor, items: Tensor, weights: Tensor, block: int) -> None:
        self._queries_CBD = queries.transpose(0, 1).contiguous()
        self._weights, self._num_items = weights.tolist(), items.shape[1]
        self.width = LANES * -(-min(block, self._num_items) // LANES)
        missing = self.width - self._num_items
        self.items = F.pad(items, (0, 0, 0, missing)) if missing > 0 else items
        self._sum = queries.new_zeros(())
        self._room = self.room(self.width)

    def room(self, width: int) -> Tensor:
        """For the scores of a tile, [1 + C, B, width]."""
        return self._sum.new_empty(1 + len(self._weights), self._queries_CBD.shape[1], width)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """The first new item of each tile, and the scores from there on [1 + C, B, n].

        ValueError at the end if any score was no finite number.
        """
        for start in range(0, self._num_items, self.width):
            first = min(start, self.items.shape[1] - self.width)
            scores = self._room
            self.score(self.items[:, first : first + self.width], scores)
            yield start, scores[..., start - first : self._num_items - first]
        if not torch.isfinite(self._sum):
            raise ValueError("a score is no finite number: the weights or vectors are damaged")

    def score(self, items_CnD: Tensor, out: Tensor) -> None:
        """The whole score (Eq. 22), then each channel's (Eq. 20-21), of items -> [1 + C, B, n]."""
        whole, channels = out[0], out[1:]
        torch.bmm(self._queries_CBD, items_CnD.transpose(1, 2), out=channels)
        torch.mul(channels[0], self._weights[0], out=whole)
        for channel, weight in zip(channels[1:], self._weights[1:], strict=True):
            whole.add_(channel, alpha=weight)
        self._sum += whole.sum()


def count_channels(
    queries: Tensor,
    items: Tensor,
    weights: Tensor,
    targets: Tensor,
    block: int,
    seen: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """How many items score above each target, and how many others as high -> int64 [B, 1 + C] each.

    `queries` [B, C, D], `items` [C, X, D], `weights` [C], `targets` [B]. Column 0 is the whole
    score (Eq. 22), the weighted sum of the channels'; column 1 + c is channel c alone. A target's
    own score is the one in the tile that holds it, so equal items tie exactly. `seen` [pairs, 2]
    are distinct (row, item) that do not count; a target among them stays. Memory is B x block a
    channel. ValueError on a score that is no finite number.
    """
    if seen is not None:
        seen = seen[seen[:, 1] != targets[seen[:, 0]]]
    tiles = Tiles(queries, items, weights, block)
    own = _foreseen(tiles, targets)
    while True:
        found, better, level = _counted(tiles, targets, own, seen)
        if torch.equal(found, own):
            return better.T, level.T - 1
        own = found


def _foreseen(tiles: Tiles, targets: Tensor) -> Tensor:
    """The targets' own scores by a tile made of them -> [1 + C, B]. As a rule these are the bits
    of the tile that holds a target too, which spares a pass over the items; nothing relies on it.
    """
    filled = F.pad(targets, (0, -len(targets) % LANES))
    scores = tiles.room(len(filled))
    tiles.score(tiles.items[:, filled], scores)
    return scores[:, :, : len(targets)].diagonal(dim1=1, dim2=2).clone()


def _counted(
    tiles: Tiles, targets: Tensor, own: Tensor, seen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The targets' scores where their tiles have them; items above `own`, items level with it."""
    found, better = own.clone(), torch.zeros_like(own, dtype=torch.int64)
    level = torch.zeros_like(better)
    for start, scores in tiles:
        stop = start + scores.shape[-1]
        inside = ((targets >= start) & (targets < stop)).nonzero().squeeze(1)
        found[:, inside] = scores[:, inside, targets[inside] - start]
        better += (scores > own[..., None]).sum(-1)
        level += (scores == own[..., None]).sum(-1)
        if seen is not None:
            row, item = _within(seen, start, stop)
            known = scores[:, row, item]
            better.index_add_(1, row, (known > own[:, row]).long(), alpha=-1)
            level.index_add_(1, row, (known == own[:, row]).long(), alpha=-1)
    return found, better, level


def top_k_items(
    queries: Tensor, items: Tensor, weights: Tensor, count: int, block: int, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """The whole scores [B, n] and items [B, n] of the n = `count` highest, ties by item.

    `seen` [pairs, 2] are (row, item) that are left out; a row that has fewer items ends in -inf.
    """
    best = queries.new_full((len(queries), count), -torch.inf)
    found = torch.full_like(best, items.shape[1], dtype=torch.int64)
    for start, (scores, *_) in Tiles(queries, items, weights, block):
        row, item = _within(seen, start, start + scores.shape[1])
        scores[row, item] = -torch.inf
        rows = (scores.amax(1) > best[:, -1]).nonzero().squeeze(1)
        ids = torch.arange(start, start + scores.shape[1], device=scores.device)
        candidates = torch.cat([best[rows], scores[rows]], dim=1)
        their_ids = torch.cat([found[rows], ids.expand(len(rows), -1)], dim=1)
        best[rows], found[rows] = _highest(candidates, their_ids, count)
    return best, found


def _within(pairs: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Row, and place in the tile of items [start, stop), of the pairs that it holds."""
    row, item = pairs[(pairs[:, 1] >= start) & (pairs[:, 1] < stop)].unbind(1)
    return row, item - start


def _highest(scores: Tensor, ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of each row, equal ones by id."""
    best, place = torch.topk(scores, count, dim=1)
    least = best[:, -1:]
    torn = (scores == least).sum(1) > (best == least).sum(1)  # some of those that tie with the last
    if torn.any():
        by_id = torch.sort(ids[torn], dim=1).indices
        order = torch.sort(scores[torn].gather(1, by_id), dim=1, descending=True, stable=True)
        place[torn] = by_id.gather(1, order.indices[:, :count])
        best[torn] = order.values[:, :count]
    ids = ids.gather(1, place)
    by_id = torch.sort(ids, dim=1).indices
    order = torch.sort(best.gather(1, by_id), dim=1, descending=True, stable=True)
    return order.values, ids.gather(1, by_id).gather(1, order.indices)
