"""Transformer blocks of one channel, and the interest centres that ride on them (Eq. 8, 12-16).

B users, T positions, P prefixes a user, K centres, D width, N heads, d = D / N.

A centre looks at the tokens of one prefix alone, so every prefix has centres of its own, while one
causal pass serves the tokens of all prefixes. Nothing nonlinear stands between a token's value and
the sigma of Eq. 15; so U, W1 and W2 are applied to the T tokens and not to the P x K centres, and Q
likewise to the keys.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import ModelConfig

NORM_EPS = 1e-12


class CenterMap(nn.Module):
    """W1, b1, W2, b2 of Eq. 15."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, dim)
        self.second = nn.Linear(dim, dim)


class Block(nn.Module):
    """Post-norm, GELU, causal; with `has_centers` it also updates the centres of every prefix."""

    def __init__(self, config: ModelConfig, has_centers: bool) -> None:
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
        self, x_BTD: Tensor, centers: Tensor | None, visible_BPT: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens and centres after this layer: [B, T, D] and [B, P, K, D].

        `centers` is [K, D] where all prefixes still share them (layer 1), [B, P, K, D] after, None
        without.
        `visible_BPT` marks the tokens of each prefix.
        """
        keys, values = self._heads(self.key(x_BTD)), self._heads(self.value(x_BTD))
        updated = (
            None
            if centers is None or self.center is None
            else self._updated_centers(self.center, centers, keys, values, visible_BPT)
        )
        attended = F.scaled_dot_product_attention(
            self._heads(self.query(x_BTD)),
            keys,
            values,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
        )
        x_BTD = self.attention_norm(x_BTD + self._drop(self.output(_joined(attended))))
        hidden = self.outer(F.gelu(self.inner(x_BTD)))
        return self.feedforward_norm(x_BTD + self._drop(hidden)), updated

    def _updated_centers(
        self, center: CenterMap, centers: Tensor, keys: Tensor, values: Tensor, visible_BPT: Tensor
    ) -> Tensor:
        """c^l of every prefix -> [B, P, K, D] (Eq. 12-15, projections absorbed into the tokens)."""
        (B, P, T), (K, D) = visible_BPT.shape, centers.shape[-2:]
        N, d = self.num_heads, D // self.num_heads
        if centers.dim() == 2:
            queries_NKd = self.query(centers).view(K, N, d).transpose(0, 1)
            scores = torch.einsum("nkd,bntd->bknt", queries_NKd, keys)[:, None]
        else:
            W_NdD = self.query.weight.view(N, d, D)
            keys_BDM = torch.einsum("bntd,ndc->bcnt", keys, W_NdD).reshape(B, D, N * T)
            shift = torch.einsum("bntd,nd->bnt", keys, self.query.bias.view(N, d))
            scores = (centers.reshape(B, P * K, D) @ keys_BDM).view(B, P, K, N, T)
            scores = scores + shift[:, None, None]
        scores = scores / math.sqrt(d)
        scores = scores.masked_fill(~visible_BPT[:, :, None, None, :], -math.inf)
        weights = self._drop(torch.softmax(scores, dim=-1))  # Eq. 12
        W_DD = center.second.weight @ center.first.weight @ self.output.weight  # (U W1 W2)^T
        values_BMD = torch.einsum("bntd,end->bnte", values, W_DD.view(D, N, d)).reshape(B, N * T, D)
        bias = center.second(center.first(self.output.bias))
        mixed = (weights.reshape(B, P * K, N * T) @ values_BMD).view(B, P, K, D)  # Eq. 13-14
        return F.gelu(mixed + bias)  # Eq. 15

    def _heads(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        return x_BTD.view(B, T, self.num_heads, D // self.num_heads).transpose(1, 2)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def _joined(x_BNTd: Tensor) -> Tensor:
    B, _, T, _ = x_BNTd.shape
    return x_BNTd.transpose(1, 2).reshape(B, T, -1)


class Encoder(nn.Module):
    """One channel's sequence part: x^0 = dropout(LayerNorm(items + P)), then L blocks (Eq. 7-9)."""

    def __init__(self, config: ModelConfig, has_centers: bool) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.blocks = nn.ModuleList(Block(config, has_centers) for _ in range(config.num_layers))

    def forward(
        self, x_BTD: Tensor, centers_KD: Tensor | None, visible_BPT: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, T, D] and each prefix's centres c^L [B, P, K, D] (Eq. 16)."""
        x_BTD = F.dropout(self.norm(x_BTD), self.dropout, self.training)
        centers: Tensor | None = centers_KD
        for block in self.blocks:
            x_BTD, centers = block(x_BTD, centers, visible_BPT)
        return x_BTD, centers


def center_mixture(e_BPD: Tensor, c_BPKD: Tensor, noise_BPK: Tensor | None, tau: float) -> Tensor:
    """What the nearest interest centres add to each prefix -> [B, P, D] (Eq. 18-19).

    `noise_BPK` is logit(delta), delta ~ U(0, 1); None (evaluation) equals delta = 1/2.
    """
    logits = torch.einsum("bpd,bpkd->bpk", e_BPD, c_BPKD)
    if noise_BPK is not None:
        logits = logits + noise_BPK
    return torch.einsum("bpk,bpkd->bpd", torch.softmax(logits / tau, dim=-1), c_BPKD)
