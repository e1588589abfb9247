"""Users as vectors: what stands before each target, encoded in groups of like length.

B users, C channels, D width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.models.base import Model, Side

History = NDArray[np.int32]

GROUPS = 8
NO_HISTORY = np.zeros(1, dtype=np.int32)


@torch.no_grad()
def user_vectors(model: Model, histories: list[History], side: Side) -> Tensor:
    """The last `max_length` events of each history, oldest first, as one vector -> [B, C, D].

    The number of groups is fixed, as under ZeRO-3 every rank must call the model equally often.
    """
    num_channels, _, dim = side.vectors.shape
    vectors = side.vectors.new_empty(len(histories), num_channels, dim)
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    for group in np.array_split(np.argsort(lengths, kind="stable"), GROUPS):
        members = [histories[user] for user in group] or [NO_HISTORY]
        items_BT, lengths_B = padded(members, model.config.max_length)
        found = model.user_vectors(items_BT.to(vectors.device), lengths_B.to(vectors.device), side)
        vectors[torch.from_numpy(group)] = found[: len(group)]
    return vectors


def padded(histories: list[History], max_length: int) -> tuple[Tensor, Tensor]:
    """The last `max_length` events of each history, padded at the end [B, T]; lengths [B]."""
    cut = [history[-max_length:] for history in histories]
    lengths = torch.tensor([len(history) for history in cut])
    items = torch.zeros(len(cut), int(lengths.max()), dtype=torch.int64)
    for row, history in enumerate(cut):
        items[row, : len(history)] = torch.from_numpy(history.astype(np.int64))
    return items, lengths
