"""MMMLP: Liang et al., MMMLP: Multi-modal Multilayer Perceptron for Sequential Recommendations,
WWW 2023.

A sequence of ids and one of each modality go through layers that mix positions, then channels:
x + W2 GELU(W1 LayerNorm(x)), along T and along D (Eq. 5-6); what they come to is fused, LayerNorm(W
LayerNorm([x^id; x^1; ...; x^M]) + b), and scores by its inner product with E_i.

Departs from the original: position t mixes the positions up to t alone, and so do its four hidden
units, so that one pass gives every prefix (theirs has one prefix a row, its end padded); every
layer has weights of its own; a modality enters as its encoder's vector, mapped linearly to D, where
theirs trains an MLP-Mixer on image patches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.models import MMMLPConfig
from training.data.item_tables import ItemTables
from training.layers.dropout import dropout
from training.layers.features import Features
from training.layers.transformer import NORM_EPS
from training.models.next_item import NextItem

EXPANSION = 4  # hidden units a position, and a channel


class MMMLP(NextItem):
    config: MMMLPConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config, dim, num_streams = self.config, self.config.dim, 1 + len(tables.modalities)
        self.features = Features(tables, dim)
        self.mixers = nn.ModuleList(Mixer(config) for _ in range(num_streams))
        self.norm = nn.LayerNorm(num_streams * dim, eps=NORM_EPS)
        self.together = nn.Linear(num_streams * dim, dim)
        self.last_norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        return self.vectors(items), *self.features(items).unbind(dim=1)

    def queries(self, tokens: tuple[Tensor, ...], index_BT: Tensor) -> Tensor:
        streams = zip(self.mixers, tokens, strict=True)
        mixed = [mixer(F.embedding(index_BT, table)) for mixer, table in streams]
        queries_BTD: Tensor = self.last_norm(self.together(self.norm(torch.cat(mixed, dim=-1))))
        return queries_BTD


class Mixer(nn.Module):
    """One stream's layers."""

    def __init__(self, config: MMMLPConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.layers = nn.ModuleList()
        for _ in range(config.num_layers):
            self.layers.append(Positions(config))
            self.layers.append(Channels(config))

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = self.norm(x_BTD)
        for layer in self.layers:
            x_BTD = x_BTD + layer(x_BTD)
        return x_BTD


class Positions(nn.Module):
    """W2 GELU(W1 LayerNorm(x) + b1) + b2 along T, both causal: lower triangles of blocks."""

    def __init__(self, config: MMMLPConfig) -> None:
        super().__init__()
        longest = config.max_length
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.inner = nn.Parameter(torch.empty(longest, EXPANSION, longest))  # W1 of s, j and t <= s
        self.inner_bias = nn.Parameter(torch.empty(longest * EXPANSION))
        self.outer = nn.Parameter(torch.empty(longest, longest, EXPANSION))  # W2 of t, s <= t and j
        self.outer_bias = nn.Parameter(torch.empty(longest))

    def forward(self, x_BTD: Tensor) -> Tensor:
        T = x_BTD.shape[1]
        causal_TT = x_BTD.new_ones(T, T).tril()
        inner = (self.inner[:T, :, :T] * causal_TT[:, None]).flatten(0, 1)
        outer = (self.outer[:T, :T] * causal_TT[..., None]).flatten(1)
        hidden = F.gelu(inner @ self.norm(x_BTD) + self.inner_bias[: T * EXPANSION, None])
        hidden = dropout(hidden, self.dropout, self.training)
        mixed = outer @ hidden + self.outer_bias[:T, None]
        return dropout(mixed, self.dropout, self.training)


class Channels(nn.Module):
    """The same along D, position by position."""

    def __init__(self, config: MMMLPConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.inner = nn.Linear(config.dim, EXPANSION * config.dim)
        self.outer = nn.Linear(EXPANSION * config.dim, config.dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden = dropout(F.gelu(self.inner(self.norm(x_BTD))), self.dropout, self.training)
        return dropout(self.outer(hidden), self.dropout, self.training)
