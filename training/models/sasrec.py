"""SASRec: Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018 (arXiv 1808.09781).

x^0 = dropout(LayerNorm(E[S_u] + P)) (Eq. 1), L causal blocks of attention and feed-forward (Eq.
2-7), and score = x^L_t . E_i (Eq. 8).

Departs from the original as its common PyTorch form does: post-norm with GELU instead of pre-norm
with ReLU, E not scaled by sqrt(D); and the loss is the softmax over items, not binary
cross-entropy with one negative.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.models import SASRecConfig
from training.data.item_tables import ItemTables
from training.layers.transformer import Encoder
from training.models.next_item import Encoded


class SASRec(Encoded):
    config: SASRecConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.item_embedding = nn.Parameter(torch.empty(tables.num_items, config.dim))
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.encoder = Encoder(config, has_centers=False)

    def vectors(self, items: Tensor | None) -> Tensor:
        return self.item_embedding if items is None else F.embedding(items, self.item_embedding)

    def encoded(self, tokens: tuple[Tensor, ...], place_BT: Tensor, at_BQ: Tensor | None) -> Tensor:
        x_BTD = F.embedding(place_BT, tokens[0]) + self.position_embedding[: place_BT.shape[1]]
        queries_BQD: Tensor = self.encoder(x_BTD, at_BQ=at_BQ)[0]
        return queries_BQD
