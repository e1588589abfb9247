"""GRU4RecF: Hidasi et al., Parallel Recurrent Neural Network Architectures for Feature-rich
Session-based Recommendations, RecSys 2016; the parallel architecture, as in RecBole.

h_t = GRU(dropout(E[S_u])), g_t = GRU'(F[S_u]), and score = (W [h_t; g_t] + b) . E_i.

Departs from the original: both networks are trained together instead of in turns; the loss is the
softmax over items; F is the concatenation of the vectors of all modalities, each mapped linearly to
D (zeros for an item without it).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.models import GRU4RecFConfig
from training.data.item_tables import ItemTables
from training.layers.dropout import dropout
from training.layers.features import Features
from training.layers.gru import gru, initialize_recurrent
from training.models.next_item import NextItem


class GRU4RecF(NextItem):
    config: GRU4RecFConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        dim, hidden_dim, num_layers = config.dim, config.hidden_dim, config.num_layers
        self.features = Features(tables, dim)
        self.item_gru = gru(dim, hidden_dim, num_layers)
        self.feature_gru = gru(len(tables.modalities) * dim, hidden_dim, num_layers)
        self.output = nn.Linear(2 * hidden_dim, dim)

    def initialize(self, seed: int) -> None:
        super().initialize(seed)
        initialize_recurrent(self, seed)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        return self.embed(items), self.features(items).flatten(1)

    def queries(self, tokens: tuple[Tensor, ...], index_BT: Tensor) -> Tensor:
        items_BTD, features_BTF = (F.embedding(index_BT, table) for table in tokens)
        h_BTH, _ = self.item_gru(dropout(items_BTD, self.config.dropout, self.training))
        g_BTH, _ = self.feature_gru(features_BTF)
        queries_BTD: Tensor = self.output(torch.cat([h_BTH, g_BTH], dim=-1))
        return queries_BTD
