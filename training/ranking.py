"""Exact ranks by counting, and the highest scores, a block of items at a time.

B targets or users, C channels, D width, X items.
"""

from functools import lru_cache

import torch
from torch import Tensor


def count_channels(
    queries: Tensor, items: Tensor, weights: Tensor, targets: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    """How many items score above each target, and how many others as high -> int64 [B, 1 + C] each.

    `queries` [B, C, D], `items` [C, X, D], `weights` [C], `targets` [B]. Column 0 is the whole
    score (Eq. 22), the weighted sum of the channels'; column 1 + c is channel c alone. A target's
    own score is read from the block that holds it, so equal items tie exactly. Memory is B x block
    a channel. ValueError on a score that is no number.
    """
    starts = range(0, items.shape[1], block)

    @lru_cache(maxsize=1)  # items that fit one block are scored once
    def scores_from(start: int) -> Tensor:
        return block_scores(queries, items[:, start : start + block], weights)

    own = queries.new_empty(len(targets), 1 + len(weights))
    for start in starts:
        inside = ((targets >= start) & (targets < start + block)).nonzero().squeeze(1)
        if len(inside):
            own[inside] = scores_from(start)[inside, :, targets[inside] - start]
    better = torch.zeros_like(own, dtype=torch.int64)
    level = torch.zeros_like(own, dtype=torch.int64)
    for start in starts:
        better += (scores_from(start) > own[..., None]).sum(-1)
        level += (scores_from(start) == own[..., None]).sum(-1)
    return better, level - 1


def block_scores(queries: Tensor, items: Tensor, weights: Tensor) -> Tensor:
    """Scores of a block of n items -> [B, 1 + C, n]; the first row is their weighted sum (Eq.
    20-22).
    """
    scores = torch.einsum("bcd,cnd->bcn", queries, items)
    scores = torch.cat([torch.einsum("bcn,c->bn", scores, weights)[:, None], scores], dim=1)
    if torch.isnan(scores).any():
        raise ValueError("a score is no number (NaN): the weights or vectors are damaged")
    return scores


def top_items(
    queries: Tensor, items: Tensor, weights: Tensor, count: int, block: int, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """The whole scores [B, n] and items [B, n] of the n = `count` highest, ties by item.

    `seen` [pairs, 2] are (row, item) that are left out; a row that has fewer items ends in -inf.
    """
    best = queries.new_full((len(queries), count), -torch.inf)
    found = torch.full_like(best, items.shape[1], dtype=torch.int64)
    for start in range(0, items.shape[1], block):
        scores = block_scores(queries, items[:, start : start + block], weights)[:, 0]
        inside = (seen[:, 1] >= start) & (seen[:, 1] < start + block)
        row, item = seen[inside].unbind(1)
        scores[row, item - start] = -torch.inf
        ids = torch.arange(start, start + scores.shape[1], device=scores.device)
        scores, ids = torch.cat([best, scores], 1), torch.cat([found, ids.expand_as(scores)], 1)
        best, found = _highest(scores, ids, count)
    return best, found


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
