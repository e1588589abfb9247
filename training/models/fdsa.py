"""FDSA: Zhang et al., Feature-level Deeper Self-Attention Network for Sequential Recommendation,
IJCAI 2019.

f_i = sum_m alpha_im F_m, alpha_i = softmax over m of w . ReLU(W F_m + b) (Eq. 2-4); one stack of
causal blocks over E[S_u] + P and one over f[S_u] + P (Eq. 5-11); score = LayerNorm(W [h_t; g_t] +
b) . E_i (Eq. 12-13).

Departs from the original: a feature is a modality's vector, mapped linearly to D (zeros where an
item has none); the blocks are SASRec's here (post-norm, GELU, P shared by both stacks as in
RecBole), each stack with norms of its own; the loss is the softmax over items.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.models import FDSAConfig
from training.data.item_tables import ItemTables
from training.layers.dropout import dropout
from training.layers.features import Features
from training.layers.transformer import NORM_EPS, Encoder
from training.models.next_item import Encoded


class FDSA(Encoded):
    config: FDSAConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config, dim = self.config, self.config.dim
        self.item_embedding = nn.Parameter(torch.empty(tables.num_items, dim))
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, dim))
        self.features = Features(tables, dim)
        self.attention = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))
        self.item_encoder = Encoder(config, has_centers=False)
        self.feature_encoder = Encoder(config, has_centers=False)
        self.together = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def vectors(self, items: Tensor | None) -> Tensor:
        return self.item_embedding if items is None else F.embedding(items, self.item_embedding)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        features_nMD = self.features(items)
        alpha_nM1 = torch.softmax(self.attention(features_nMD), dim=1)
        return self.vectors(items), (alpha_nM1 * features_nMD).sum(dim=1)

    def encoded(self, tokens: tuple[Tensor, ...], place_BT: Tensor, at_BQ: Tensor | None) -> Tensor:
        positions_TD = self.position_embedding[: place_BT.shape[1]]
        of_items, of_features = (F.embedding(place_BT, table) + positions_TD for table in tokens)
        h_BQD, _ = self.item_encoder(of_items, at_BQ=at_BQ)
        g_BQD, _ = self.feature_encoder(of_features, at_BQ=at_BQ)
        queries_BQD = self.norm(self.together(torch.cat([h_BQD, g_BQD], dim=-1)))
        return dropout(queries_BQD, self.config.dropout, self.training)
