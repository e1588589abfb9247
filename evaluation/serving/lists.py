"""The items with the highest scores after each of some histories.

B histories, n items of a list.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from evaluation.ranking import seen_pairs
from mdsrec.arrays import Floats, Ints
from training.data.sequences import History
from training.inference import ALL, TrainedModel


class BestItems(NamedTuple):
    """Lists of equal length. One with fewer items ends in places that `is_item` does not mark."""

    items: Ints  # [B, n]
    scores: Floats  # float32 [B, n]
    channels: npt.NDArray[np.str_]  # [B, n], the channel with the largest term of each score
    is_item: npt.NDArray[np.bool_]  # [B, n]


def best_items(
    trained: TrainedModel,
    histories: list[History],
    top: int,
    exclude_seen: bool,
    item_block: int,
    wanted: torch.Tensor | None = None,
) -> BestItems:
    """Return the items with the highest whole scores, ties by item.

    Only items that `wanted` (bool [X]) marks. A list has the same bits in every batch of histories.
    """
    ranking, weights = trained.ranking(histories), trained.sums[ALL]
    seen = torch.from_numpy(seen_pairs(histories if exclude_seen else []))
    scores, items = ranking.top(weights, top, item_block, seen, wanted)
    terms = ranking.scores_of(items.clamp(max=trained.num_items - 1))
    largest = (terms * weights.to(terms.device)).argmax(dim=2).cpu().numpy()
    return BestItems(
        items.cpu().numpy(),
        scores.cpu().numpy(),
        np.array(trained.channels)[largest],
        (scores > -torch.inf).cpu().numpy(),
    )


def flat(lists: Sequence[BestItems], name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a field of all lists, one list after the other."""
    parts = [getattr(part, name)[part.is_item] for part in lists]
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype)
