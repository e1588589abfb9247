"""Transformer blocks in the form that most PyTorch versions of SASRec use (MDSRec Eq. 7-9).

B users, T positions, Q of them computed, D width, N heads, d = D / N.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import TransformerConfig
from training.layers.dropout import dropout
from training.layers.linear import Linear

NORM_EPS = 1e-12
HEAD_LANES = 8  # a GPU's fused attention takes heads of a multiple of so many numbers


class Block(nn.Module):
    """Post-norm Transformer block with GELU (Eq. 8)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.query, self.key = Linear(dim, dim), Linear(dim, dim)
        self.value, self.output = Linear(dim, dim), Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.inner, self.outer = Linear(dim, config.inner_dim), Linear(config.inner_dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(
        self, x_BTD: Tensor, visible: Tensor | None = None, positions_BQ: Tensor | None = None
    ) -> Tensor:
        """Return the tokens after this block [B, T, D], or only those at `positions_BQ` [B, Q, D].

        `visible`, bool [B, 1, T or 1, T], marks the positions that each position attends to. None
        means causal attention.
        """
        return self.tokens_keys_values(x_BTD, visible, positions_BQ)[0]

    def tokens_keys_values(
        self, x_BTD: Tensor, visible: Tensor | None, positions_BQ: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` returns, and the keys and values of all tokens [B, N, T, d]."""
        N = self.num_heads
        keys, values = split_heads(self.key(x_BTD), N), split_heads(self.value(x_BTD), N)
        x_BQD = x_BTD
        if positions_BQ is not None:
            x_BQD = gather_positions(x_BTD, positions_BQ)
            if visible is None:
                all_T = torch.arange(x_BTD.shape[1], device=positions_BQ.device)
                visible = (all_T <= positions_BQ[..., None])[:, None]
        p = self.dropout if self.training else 0.0
        attended = attention(split_heads(self.query(x_BQD), N), keys, values, visible, p)
        attended = self.output(attended.transpose(1, 2).flatten(2))
        after_BQD = self.attention_norm(x_BQD + dropout(attended, self.dropout, self.training))
        hidden = self.outer(F.gelu(self.inner(after_BQD)))
        after_BQD = self.feedforward_norm(after_BQD + dropout(hidden, self.dropout, self.training))
        return after_BQD, keys, values


class Encoder(nn.Module):
    """Transformer of one channel: x^0 = dropout(LayerNorm(items + P)), then L blocks (Eq. 7-9)."""

    def __init__(self, config: TransformerConfig, block: type[Block] = Block) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.blocks = nn.ModuleList(block(config) for _ in range(config.num_layers))

    def forward(
        self, x_BTD: Tensor, visible: Tensor | None = None, positions_BQ: Tensor | None = None
    ) -> Tensor:
        """Return the tokens after the last block [B, T, D].

        With `positions_BQ` the last block computes only the tokens at these positions [B, Q, D].
        `visible` must then be None or the same for all positions.
        """
        x_BTD = dropout(self.norm(x_BTD), self.dropout, self.training)
        *lower, last = self.blocks
        for block in lower:
            x_BTD = block(x_BTD, visible)
        x_BQD: Tensor = last(x_BTD, visible, positions_BQ)
        return x_BQD


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor | None,
    p: float,
    width: int | None = None,
) -> Tensor:
    """Return the attention of queries [b, N, Q, d] to keys [b, N, T, d] -> [b, N, Q, d].

    `visible` marks what each query attends to; None means causal attention. `p` is the dropout of
    the weights. `width` is that of the heads, if they are padded already -> [b, N, Q, width].
    """
    d = width or queries.shape[-1]
    queries, keys, values = pad_heads(queries), pad_heads(keys), pad_heads(values)
    is_padded = queries.shape[-1] > d
    attended = F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=visible,
        dropout_p=p,
        is_causal=visible is None,
        scale=d**-0.5 if is_padded else None,
    )
    return attended[..., :d] if is_padded else attended


def pad_heads(heads: Tensor) -> Tensor:
    """Return heads [..., d] of a width that a GPU's fused attention takes; on a CPU as they are."""
    missing = -heads.shape[-1] % HEAD_LANES
    return F.pad(heads, (0, missing)) if missing and heads.is_cuda else heads


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Return [b, n, N d] as [b, N, n, d]."""
    return x.view(*x.shape[:-1], num_heads, -1).transpose(1, 2)


def gather_positions(x_BTD: Tensor, positions_BQ: Tensor) -> Tensor:
    """Return the tokens at `positions_BQ` -> [B, Q, D]."""
    return x_BTD.gather(1, positions_BQ[..., None].expand(-1, -1, x_BTD.shape[-1]))
