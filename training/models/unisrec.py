"""UniSRec: Hou et al., Towards Universal Sequence Representation Learning for Recommender Systems,
KDD 2022 (arXiv 2206.05941); the transductive setting (text and ids), trained on one data set.

An item is v_i = E_i + sum_e g_e (x_i - b_e) W_e, g = softmax(x_i W_g): parametric whitening (Eq.
2) by a mixture of experts (Eq. 3-4). Sequences of v + P go through SASRec's blocks (Eq. 5-6), and
score = cos(x^L_t, v_i) / temperature (Eq. 12).

Departs from the original: no pre-training on other data sets; input vectors are first whitened by
their own mean and covariance, because vectors of unit length would start the adaptor near zero; the
gate has no noise, and the experts share one dropout mask; each modality has an adaptor, and their
outputs are summed (the original reads only text: modalities = ["text"]).
"""

import torch
from torch import Tensor, nn

from mdsrec.config import Experiment
from mdsrec.config.models import UniSRecConfig
from training.data.item_tables import ItemTables
from training.layers.dropout import dropout
from training.layers.features import whiten
from training.layers.item_constants import ItemConstants
from training.layers.transformer import Encoder
from training.models.next_item import CausalTransformer


class UniSRec(CausalTransformer):
    config: UniSRecConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.adaptors = nn.ModuleList(
            Adaptor(modality.features, config, tables) for modality in tables.modalities.values()
        )
        self.encoder = Encoder(config)

    def vectors(self, items: Tensor | None) -> Tensor:
        vectors = self.embed(items)
        for adaptor in self.adaptors:
            vectors = vectors + adaptor(items)
        return vectors


class Adaptor(nn.Module):
    """Mixture of experts that map the vectors of one modality to D (Eq. 2-4)."""

    def __init__(
        self, vectors_XF: Tensor | None, config: UniSRecConfig, tables: ItemTables
    ) -> None:
        super().__init__()
        assert vectors_XF is not None
        width, num_experts = vectors_XF.shape[1], config.num_experts
        self.dropout = config.adaptor_dropout
        self.vectors = ItemConstants(whiten(vectors_XF, own=tables.own))
        self.present = ItemConstants((vectors_XF != 0).any(1, keepdim=True))
        self.gate = nn.Linear(width, num_experts, bias=False)
        self.center = nn.Parameter(torch.empty(num_experts, width))  # b_e
        self.expert = nn.Parameter(torch.empty(num_experts, width, config.dim))  # W_e

    def forward(self, items: Tensor | None) -> Tensor:
        """Return the mapped vectors of the items (None: all) -> [n, D].

        An item without a vector has zeros.
        """
        x_nF, present = self.vectors(items), self.present(items)
        gates_nE = torch.softmax(self.gate(x_nF), dim=1)
        x_nF = dropout(x_nF, self.dropout, self.training)
        num_experts, width, dim = self.expert.shape
        by_expert = x_nF @ self.expert.transpose(0, 1).reshape(width, num_experts * dim)
        shift_ED = torch.einsum("ef,efd->ed", self.center, self.expert)
        mixed = torch.einsum("ned,ne->nd", by_expert.view(-1, num_experts, dim), gates_nE)
        mapped: Tensor = (mixed - gates_nE @ shift_ED) * present
        return mapped
