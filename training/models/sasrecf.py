"""SASRecF: SASRec whose input is the item embedding concatenated with item features, as in
RecBole (CIKM 2021, arXiv 2011.01731).

x^0 = dropout(LayerNorm(W [E; F_1; ...; F_M] + b + P)), then as SASRec; score = x^L_t . E_i.

Departs from the original: a feature is the vector of a modality, mapped linearly to D (zeros for an
item without it), where RecBole embeds categories. sasrec.py lists the other differences.
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
        with_features = torch.cat([self.embed(items), self.features(items).flatten(1)], dim=1)
        return (self.together(with_features),)
