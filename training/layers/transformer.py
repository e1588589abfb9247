"""Transformer blocks of one channel (Eq. 7-9), and what they offer to the interest centres.

B users, T positions, K centres, D width, N heads, d = D / N.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import TransformerConfig
from training.layers.dropout import dropout
from training.models.mdsrec.centers import Layer, Projection, absorbs, split_heads

NORM_EPS = 1e-12


class CenterMap(nn.Module):
    """W1, b1, W2, b2 of Eq. 15."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, dim)
        self.second = nn.Linear(dim, dim)


class Block(nn.Module):
    """Post-norm, GELU; causal, or with what each position may see."""

    def __init__(self, config: TransformerConfig, has_centers: bool) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.inner, self.outer = nn.Linear(dim, config.inner_dim), nn.Linear(config.inner_dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.center = CenterMap(dim) if has_centers else None

    def forward(
        self,
        x_BTD: Tensor,
        centers_KD: Tensor | None,
        visible: Tensor | None = None,
        at_BQ: Tensor | None = None,
    ) -> tuple[Tensor, Layer | None]:
        """Tokens after this layer [B, T, D], or [B, Q, D] at the positions `at` alone; and what all
        were before it to the centres, which are c^0 in the first layer alone.

        `visible`, bool [B, 1, T or 1, T], are the positions that a position sees; none: causal.
        """
        N = self.num_heads
        keys, values = split_heads(self.key(x_BTD), N), split_heads(self.value(x_BTD), N)
        x_BQD = x_BTD
        if at_BQ is not None:
            x_BQD = taken(x_BTD, at_BQ)
            if visible is None:
                at_T = torch.arange(x_BTD.shape[1], device=at_BQ.device)
                visible = (at_T <= at_BQ[..., None])[:, None]
        attended = F.scaled_dot_product_attention(
            split_heads(self.query(x_BQD), N),
            keys,
            values,
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=visible is None,
        )
        attended = self.output(attended.transpose(1, 2).flatten(2))
        after_BQD = self.attention_norm(x_BQD + dropout(attended, self.dropout, self.training))
        hidden = self.outer(F.gelu(self.inner(after_BQD)))
        after_BQD = self.feedforward_norm(after_BQD + dropout(hidden, self.dropout, self.training))
        if self.center is None:
            return after_BQD, None
        with torch.autocast(x_BTD.device.type, enabled=False):
            return after_BQD, self._offered(self.center, centers_KD, keys, values)

    def _offered(
        self, center: CenterMap, centers_KD: Tensor | None, keys: Tensor, values: Tensor
    ) -> Layer:
        """Everything of Eq. 12-15 that is linear, at the tokens or at the centres."""
        B, N, T, d = keys.shape
        keys, values = (x.to(self.query.weight.dtype) for x in (keys / math.sqrt(d), values))
        scores = None
        if centers_KD is not None:
            queries_KNd = self.query(centers_KD).view(-1, N, d)
            scores = torch.einsum("knd,bntd->bknt", queries_KNd, keys).flatten(2)
        output_DD = self.output.weight.T @ center.first.weight.T @ center.second.weight.T
        output_bias = center.second(center.first(self.output.bias))
        if not absorbs(N, T, N * d):
            # Copies, as ZeRO-3 takes the parameters away when this returns.
            query = self.query.weight.T.clone(), self.query.bias.clone()
            projection = Projection(*query, output_DD, output_bias)
            return Layer(projection, None if scores is not None else keys, scores, values)
        mixed = torch.einsum("bntd,ndc->bntc", values, output_DD.view(N, d, N * d)).flatten(1, 2)
        mixed = torch.cat([mixed, output_bias.expand(B, 1, -1)], dim=1)
        if scores is not None:
            return Layer(None, None, scores, mixed)
        by_head = self.query.weight.view(N, d, N * d)  # Q^T
        query_keys = torch.einsum("bntd,ndc->bntc", keys, by_head).flatten(1, 2)
        shift = torch.einsum("bntd,nd->bnt", keys, self.query.bias.view(N, d)).flatten(1)
        return Layer(None, query_keys, shift[:, None], mixed)


class Encoder(nn.Module):
    """One channel's sequence part: x^0 = dropout(LayerNorm(items + P)), then L blocks (Eq. 7-9)."""

    def __init__(self, config: TransformerConfig, has_centers: bool) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.blocks = nn.ModuleList(Block(config, has_centers) for _ in range(config.num_layers))

    def forward(
        self,
        x_BTD: Tensor,
        centers_KD: Tensor | None = None,
        visible: Tensor | None = None,
        at_BQ: Tensor | None = None,
    ) -> tuple[Tensor, list[Layer]]:
        """Tokens [B, T, D] after the last layer, and what each offers to the centres, first c^0.

        With `at`, tokens [B, Q, D] at these positions: the last layer makes no others.
        `visible` must then be the same for all positions, or none.
        """
        x_BTD = dropout(self.norm(x_BTD), self.dropout, self.training)
        layers = []
        for number, block in enumerate(self.blocks, 1):
            at_last = at_BQ if number == len(self.blocks) else None
            x_BTD, layer = block(x_BTD, centers_KD, visible, at_last)
            centers_KD = None
            if layer is not None:
                layers.append(layer)
        return x_BTD, layers


def taken(x_BTD: Tensor, at_BQ: Tensor) -> Tensor:
    """What stands at positions `at` -> [B, Q, D]."""
    return x_BTD.gather(1, at_BQ[..., None].expand(-1, -1, x_BTD.shape[-1]))
