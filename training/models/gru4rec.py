"""GRU4Rec: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016
(arXiv 1511.06939), with item embeddings and sequences of a user's events as in Tan et al., 2016.

h_t = GRU(dropout(E[S_u])) (Eq. 1-4), and score = (W h_t + b) . E_i.

Departs from the original: the loss is the softmax over items instead of TOP1 or BPR, and input and
output share the item embedding, as in RecBole.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.models import GRU4RecConfig
from training.data.item_tables import ItemTables
from training.layers.dropout import dropout
from training.layers.gru import gru, initialize_recurrent
from training.models.next_item import NextItem


class GRU4Rec(NextItem):
    config: GRU4RecConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.gru = gru(config.dim, config.hidden_dim, config.num_layers)
        self.output = nn.Linear(config.hidden_dim, config.dim)

    def initialize(self, seed: int) -> None:
        super().initialize(seed)
        initialize_recurrent(self, seed)

    def queries(self, tokens: tuple[Tensor, ...], index_BT: Tensor) -> Tensor:
        x_BTD = dropout(F.embedding(index_BT, tokens[0]), self.config.dropout, self.training)
        hidden_BTH, _ = self.gru(x_BTD)
        queries_BTD: Tensor = self.output(hidden_BTH)
        return queries_BTD
