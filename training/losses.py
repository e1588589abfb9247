"""Softmax cross-entropy over all items, summed over the channels (Eq. 23-24)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def channel_losses(queries_PCD: Tensor, items_CXD: Tensor, targets_P: Tensor) -> Tensor:
    """Cross-entropy of each channel, summed over the prefixes -> [C] (Eq. 24)."""
    return torch.stack(
        [
            F.cross_entropy(query_PD @ item_XD.T, targets_P, reduction="sum")
            for query_PD, item_XD in zip(queries_PCD.unbind(1), items_CXD, strict=True)
        ]
    )
