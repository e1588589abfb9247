"""SASRecF: SASRec whose items enter as their embedding beside their features, the form in which
RecBole (CIKM 2021, arXiv 2011.01731) has it.

x^0 = dropout(LayerNorm(W [E; F_1; ...; F_M] + b + P)), then as SASRec; score = x^L_t . E_i.

Departs from the original: a feature is a modality's vector, mapped linearly to D, where RecBole
embeds categories; an item without it has zeros there. For the rest see sasrec.py.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.models import SASRecFConfig
from training.data.item_tables import ItemTables
from training.layers.features import Features
from training.layers.transformer import Encoder
from training.models.next_item import Encoded


class SASRecF(Encoded):
    config: SASRecFConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.item_embedding = nn.Parameter(torch.empty(tables.num_items, config.dim))
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.features = Features(tables, config.dim)
        self.together = nn.Linear((1 + len(tables.modalities)) * config.dim, config.dim)
        self.encoder = Encoder(config, has_centers=False)

    def vectors(self, items: Tensor | None) -> Tensor:
        return self.item_embedding if items is None else F.embedding(items, self.item_embedding)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        beside = torch.cat([self.vectors(items), self.features(items).flatten(1)], dim=1)
        return (self.together(beside),)

    def encoded(self, tokens: tuple[Tensor, ...], place_BT: Tensor, at_BQ: Tensor | None) -> Tensor:
        x_BTD = F.embedding(place_BT, tokens[0]) + self.position_embedding[: place_BT.shape[1]]
        queries_BQD: Tensor = self.encoder(x_BTD, at_BQ=at_BQ)[0]
        return queries_BQD
