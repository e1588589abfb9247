"""MMMLP: Liang et al., MMMLP: Multi-modal Multilayer Perceptron for Sequential Recommendations,
WWW 2023.

The sequence of ids and that of each modality pass through layers that mix positions, then channels:
x + W2 GELU(W1 LayerNorm(x)), first along T, then along D (Eq. 5-6). Their outputs are fused by
LayerNorm(W LayerNorm([x^id; x^1; ...; x^M]) + b), and score = its inner product with E_i.

Departs from the original: position t and its four hidden units mix only the positions up to t, so
that one pass gives every prefix (the original has one padded row per prefix); every layer has its
own weights; a modality enters as the vector of an encoder, mapped linearly to D, where the original
trains an MLP-Mixer on image patches.
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

EXPANSION = 4  # hidden units per position, and per channel


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
        return self.embed(items), *self.features(items).unbind(dim=1)

    def queries(self, tokens: tuple[Tensor, ...], index_BT: Tensor) -> Tensor:
        streams = zip(self.mixers, tokens, strict=True)
        mixed = [mixer(F.embedding(index_BT, table)) for mixer, table in streams]
        queries_BTD: Tensor = self.last_norm(self.together(self.norm(torch.cat(mixed, dim=-1))))
        return queries_BTD


class Mixer(nn.Module):
    """Layers of one stream: the ids or a modality."""

    def __init__(self, config: MMMLPConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.layers = nn.ModuleList()
        for _ in range(config.num_layers):
            self.layers.append(PositionMixing(config))
            self.layers.append(ChannelMixing(config))

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = self.norm(x_BTD)
        for layer in self.layers:
            x_BTD = x_BTD + layer(x_BTD)
        return x_BTD


class PositionMixing(nn.Module):
    """W2 GELU(W1 LayerNorm(x) + b1) + b2 along T.

    W1 and W2 are masked to be causal: position t reads only positions up to t.
    """

    def __init__(self, config: MMMLPConfig) -> None:
        super().__init__()
        longest = config.max_length
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        # Hidden unit j of position s: W1[s, j, t], used for t <= s, and W2[t, s, j], for s <= t.
        self.inner = nn.Parameter(torch.empty(longest, EXPANSION, longest))
        self.inner_bias = nn.Parameter(torch.empty(longest * EXPANSION))
        self.outer = nn.Parameter(torch.empty(longest, longest, EXPANSION))
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


class ChannelMixing(nn.Module):
    """W2 GELU(W1 LayerNorm(x) + b1) + b2 along D, for each position on its own."""

    def __init__(self, config: MMMLPConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.inner = nn.Linear(config.dim, EXPANSION * config.dim)
        self.outer = nn.Linear(EXPANSION * config.dim, config.dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden = dropout(F.gelu(self.inner(self.norm(x_BTD))), self.dropout, self.training)
        return dropout(self.outer(hidden), self.dropout, self.training)
