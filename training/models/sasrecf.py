"""SASRecF: SASRec whose items enter as their embedding beside their features, the form in which
RecBole (CIKM 2021, arXiv 2011.01731) has it.

x^0 = dropout(LayerNorm(W [E; F_1; ...; F_M] + b + P)), then as SASRec; score = x^L_t . E_i.

Departs from the original: a feature is a modality's vector, mapped linearly to D, where RecBole
embeds categories; an item without it has zeros there. For the rest see sasrec.py.
"""

import torch
from torch import Tensor, nn

from mdsrec.config import Experiment
from mdsrec.config.models import SASRecFConfig
from training.data.item_tables import ItemTables
from training.layers.features import Features
from training.layers.transformer import Encoder
from training.models.next_item import CausalTransformer


class SASRecF(CausalTransformer):
    config: SASRecFConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.features = Features(tables, config.dim)
        self.together = nn.Linear((1 + len(tables.modalities)) * config.dim, config.dim)
        self.encoder = Encoder(config)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        beside = torch.cat([self.vectors(items), self.features(items).flatten(1)], dim=1)
        return (self.together(beside),)
