"""Softmax cross-entropy over sampled negatives, corrected by how often each is drawn (log Q).

P prefixes, C channels, R scored items (negatives and targets, distinct), D width.

A negative's exp(score) counts (times / expected)-fold, so that the sum over negatives has the sum
over all items but the target for its mean. The target is in its own softmax for certain: it counts
once, uncorrected, drawn or not. To correct it too, as is common, biases the loss (Khrylchenko et
al., "Correcting the LogQ Correction", RecSys 2025, arXiv 2507.09331). Their remedy, a softmax over
the negatives alone weighted by 1 - p(target), has the gradient of this loss: `expected` counts
draws, so p(target) comes out to scale and the weight is in the gradient already.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.negatives import ScoredItems


def sampled_softmax_loss(
    queries_CPD: Tensor, vectors: Sequence[Tensor], scored: ScoredItems
) -> Tensor:
    """Cross-entropy of each channel, summed over the prefixes -> [C].

    `vectors` are each channel's of the scored items, [R, D]. Memory holds C x P x R scores.
    """
    own_P1 = scored.targets[:, None]
    log_weights_PR = scored.log_weights.repeat(len(own_P1), 1).scatter_(1, own_P1, 0.0)
    losses = [
        F.cross_entropy(query_PD @ items_RD.T + log_weights_PR, scored.targets, reduction="sum")
        for query_PD, items_RD in zip(queries_CPD, vectors, strict=True)
    ]
    return torch.stack(losses)
