"""FDSA: Zhang et al., Feature-level Deeper Self-Attention Network for Sequential Recommendation,
IJCAI 2019.

f_i = sum_m alpha_im F_m, where alpha_i is the softmax over m of w . ReLU(W F_m + b) (Eq. 2-4). One
stack of causal blocks reads E[S_u] + P and another f[S_u] + P (Eq. 5-11). score =
LayerNorm(W [h_t; g_t] + b) . E_i (Eq. 12-13).

Departs from the original: a feature is the vector of a modality, mapped linearly to D (zeros for an
item without it); the blocks are those of SASRec here (post-norm, GELU), each stack has its own
weights and norms, and both share P as in RecBole; the loss is the softmax over items.
"""

import torch
from torch import Tensor, nn

from mdsrec.config import Experiment
from mdsrec.config.models import FDSAConfig
from training.data.item_tables import ItemTables
from training.layers.dropout import dropout
from training.layers.features import Features
from training.layers.transformer import NORM_EPS, Encoder
from training.models.next_item import CausalTransformer


class FDSA(CausalTransformer):
    config: FDSAConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config, dim = self.config, self.config.dim
        self.features = Features(tables, dim)
        self.attention = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))
        self.item_encoder = Encoder(config)
        self.feature_encoder = Encoder(config)
        self.together = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        features_nMD = self.features(items)
        alpha_nM1 = torch.softmax(self.attention(features_nMD), dim=1)
        return self.embed(items), (alpha_nM1 * features_nMD).sum(dim=1)

    def encode(
        self, tokens: tuple[Tensor, ...], index_BT: Tensor, positions_BQ: Tensor | None
    ) -> Tensor:
        items, features = (self.with_positions(table, index_BT) for table in tokens)
        h_BQD = self.item_encoder(items, positions_BQ=positions_BQ)
        g_BQD = self.feature_encoder(features, positions_BQ=positions_BQ)
        queries_BQD = self.norm(self.together(torch.cat([h_BQD, g_BQD], dim=-1)))
        return dropout(queries_BQD, self.config.dropout, self.training)
