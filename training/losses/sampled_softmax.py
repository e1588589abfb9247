"""Softmax cross-entropy over sampled negatives, corrected by how often each is drawn (logQ).

P prefixes, C channels, R scored items (negatives and targets, distinct), D width.

The exp(score) of a negative is weighted by times / expected, so the expectation of the sum over the
negatives is the sum over all items but the target. The target is always in its own softmax, so it
has weight 1, drawn or not. Correcting it too, as is common, biases the loss (Khrylchenko et al.,
"Correcting the LogQ Correction", RecSys 2025, arXiv 2507.09331). Their remedy is a softmax over the
negatives only, weighted by 1 - p(target). It has the gradient of this loss: `expected` counts
draws, so p(target) has the right scale and the weight is already in the gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.negatives import ScoredItems


def sampled_softmax_loss(
    queries_CPD: Tensor, vectors: Sequence[Tensor], scored: ScoredItems
) -> Tensor:
    """Return the cross-entropy of each channel, summed over the prefixes -> [C].

    `vectors` are the vectors of the scored items in each channel, [R, D]. Memory holds C x P x R
    scores.
    """
    own_P1 = scored.targets[:, None]
    log_weights_PR = scored.log_weights.repeat(len(own_P1), 1).scatter_(1, own_P1, 0.0)
    losses = [
        F.cross_entropy(query_PD @ items_RD.T + log_weights_PR, scored.targets, reduction="sum")
        for query_PD, items_RD in zip(queries_CPD, vectors, strict=True)
    ]
    return torch.stack(losses)
