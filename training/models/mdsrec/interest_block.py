"""Transformer blocks whose attention the interest centers share (Eq. 7-9 and 12-15).

B users, T positions, Q of them computed, K centers, D width, N heads, d = D / N.
"""

import math

import torch
from torch import Tensor, nn

from mdsrec.config import TransformerConfig
from training.layers.dropout import dropout
from training.layers.transformer import Block, Encoder
from training.models.mdsrec.centers import (
    CenterAttention,
    CenterProjection,
    absorption_is_cheaper,
)


class CenterMap(nn.Module):
    """W1, b1, W2 and b2 of Eq. 15."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, dim)
        self.second = nn.Linear(dim, dim)


class InterestBlock(Block):
    """Transformer block that also prepares the attention of the centers to its input tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.center = CenterMap(config.dim)

    def forward(  # type: ignore[override]  # returns more than a Block does
        self, x_BTD: Tensor, centers_KD: Tensor | None, positions_BQ: Tensor | None = None
    ) -> tuple[Tensor, CenterAttention]:
        """Return the tokens after this block, as `Block` does, and the centers' attention.

        `centers_KD` is c^0 in the first layer. None in the others, where each prefix has its own.
        """
        after_BQD, keys, values = self.tokens_keys_values(x_BTD, None, positions_BQ)
        with torch.autocast(x_BTD.device.type, enabled=False):
            return after_BQD, self._center_attention(centers_KD, keys, values)

    def _center_attention(
        self, centers_KD: Tensor | None, keys: Tensor, values: Tensor
    ) -> CenterAttention:
        """Compute all that is linear in Eq. 12-15 and shared by the prefixes.

        Q and U W1 W2 are applied here to the tokens, or handed on to be applied to the centers.
        """
        B, N, T, d = keys.shape
        keys, values = (x.to(self.query.weight.dtype) for x in (keys / math.sqrt(d), values))
        scores = None
        if centers_KD is not None:
            queries_KNd = self.query(centers_KD).view(-1, N, d)
            scores = torch.einsum("knd,bntd->bknt", queries_KNd, keys).flatten(2)
        output_DD = self.output.weight.T @ self.center.first.weight.T @ self.center.second.weight.T
        output_bias = self.center.second(self.center.first(self.output.bias))
        if not absorption_is_cheaper(N, T, N * d):
            # Copies, because ZeRO-3 frees the gathered parameters when this block returns.
            query = self.query.weight.T.clone(), self.query.bias.clone()
            projection = CenterProjection(*query, output_DD, output_bias)
            return CenterAttention(projection, None if scores is not None else keys, scores, values)
        outputs = torch.einsum("bntd,ndc->bntc", values, output_DD.view(N, d, N * d)).flatten(1, 2)
        outputs = torch.cat([outputs, output_bias.expand(B, 1, -1)], dim=1)
        if scores is not None:
            return CenterAttention(None, None, scores, outputs)
        by_head = self.query.weight.view(N, d, N * d)  # Q^T
        query_keys = torch.einsum("bntd,ndc->bntc", keys, by_head).flatten(1, 2)
        shift = torch.einsum("bntd,nd->bnt", keys, self.query.bias.view(N, d)).flatten(1)
        return CenterAttention(None, query_keys, shift[:, None], outputs)


class InterestEncoder(Encoder):
    """Sequence part of one modality, and the attention of the centers in each of its layers."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, InterestBlock)

    def forward(  # type: ignore[override]  # returns more than an Encoder does
        self, x_BTD: Tensor, centers_KD: Tensor, positions_BQ: Tensor | None = None
    ) -> tuple[Tensor, list[CenterAttention]]:
        """Return the tokens, as a causal `Encoder` does, and the centers' attention of each layer.

        `centers_KD` is c^0 (Eq. 11).
        """
        x_BTD = dropout(self.norm(x_BTD), self.dropout, self.training)
        *lower, last = self.blocks
        layers: list[CenterAttention] = []
        start_KD: Tensor | None = centers_KD  # only for the first layer
        for block in lower:
            x_BTD, layer = block(x_BTD, start_KD)
            layers.append(layer)
            start_KD = None
        x_BQD, layer = last(x_BTD, start_KD, positions_BQ)
        return x_BQD, [*layers, layer]
