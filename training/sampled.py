"""Softmax cross-entropy over sampled negatives, corrected by how often each is drawn (log Q).

P prefixes, C channels, R scored items (negatives and targets, distinct), D width.

A negative's exp(score) counts times / expected-fold, so their sum has the full softmax's for its
mean, without the target. The target stands there for certain and counts once, uncorrected, whether
it is drawn or not. The gradient is that of Khrylchenko et al., "Correcting the LogQ Correction"
(RecSys 2025, arXiv 2507.09331): (1 - p_target) times the difference between the target's and the
corrected mean of the negatives', p_target estimated by the same negatives; where `expected` is
counted in draws, and is no mere probability, it needs no weight of its own. To correct the target
too, as is common, would bias it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.negatives import Scored


def sampled_softmax(queries_CPD: Tensor, vectors: Sequence[Tensor], scored: Scored) -> Tensor:
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
