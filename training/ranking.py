"""Exact ranks by counting, a block of items at a time.      B targets, C channels, D width, X
items.
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
