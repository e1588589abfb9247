"""SASRec: Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018 (arXiv 1808.09781).

x^0 = dropout(LayerNorm(E[S_u] + P)) (Eq. 1), L causal blocks of attention and feed-forward (Eq.
2-7), and score = x^L_t . E_i (Eq. 8).

Departs from the original: post-norm with GELU instead of pre-norm with ReLU, and E is not scaled by
sqrt(D), as in the common PyTorch implementations; the loss is the softmax over items instead of
binary cross-entropy with one negative.
"""

from mdsrec.config import Experiment
from mdsrec.config.models import SASRecConfig
from training.data.item_tables import ItemTables
from training.layers.transformer import Encoder
from training.models.next_item import CausalTransformer


class SASRec(CausalTransformer):
    config: SASRecConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        self.encoder = Encoder(self.config)
