"""UniSRec: Hou et al., Towards Universal Sequence Representation Learning for Recommender Systems,
KDD 2022 (arXiv 2206.05941); trained on one data set, transductive: text and ids.

An item is v_i = E_i + sum_e g_e (x_i - b_e) W_e, g = softmax(x_i W_g): parametric whitening (Eq.
2) by a mixture of experts (Eq. 3-4). Sequences of v + P go through SASRec's blocks (Eq. 5-6), and
score = cos(x^L_t, v_i) / temperature (Eq. 12).

Departs from the original: no pre-training on other data sets; the vectors that enter are whitened
by their own mean and covariance first, as vectors of unit length would start the adaptor near
zero; the gate has no noise, and the experts share the dropped coordinates; an adaptor for each
modality, summed (the original has text alone: modalities = ["text"]).
"""

import torch
from torch import Tensor, nn

from mdsrec.config import Experiment
from mdsrec.config.models import UniSRecConfig
from training.data.item_tables import ItemTables
from training.layers.dropout import dropout
from training.layers.features import whitened
from training.layers.transformer import Encoder
from training.models.next_item import CausalTransformer


class UniSRec(CausalTransformer):
    config: UniSRecConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.adaptors = nn.ModuleList(
            Adaptor(of_modality.features, config) for of_modality in tables.modalities.values()
        )
        self.encoder = Encoder(config)

    def vectors(self, items: Tensor | None) -> Tensor:
        vectors = self.embedded(items)
        for adaptor in self.adaptors:
            vectors = vectors + adaptor(items)
        return vectors


class Adaptor(nn.Module):
    """Experts that each whiten a modality's vectors, mixed by a gate."""

    vectors: Tensor
    present: Tensor

    def __init__(self, vectors_XF: Tensor | None, config: UniSRecConfig) -> None:
        super().__init__()
        assert vectors_XF is not None
        width, num_experts = vectors_XF.shape[1], config.num_experts
        self.dropout = config.adaptor_dropout
        self.register_buffer("vectors", whitened(vectors_XF), persistent=False)
        self.register_buffer("present", (vectors_XF != 0).any(1, keepdim=True), persistent=False)
        self.gate = nn.Linear(width, num_experts, bias=False)
        self.center = nn.Parameter(torch.empty(num_experts, width))  # b_e
        self.expert = nn.Parameter(torch.empty(num_experts, width, config.dim))  # W_e

    def forward(self, items: Tensor | None) -> Tensor:
        """Of the items (none: all) -> [n, D], zeros where one has no vector."""
        x_nF = self.vectors if items is None else self.vectors[items]
        present = self.present if items is None else self.present[items]
        gates_nE = torch.softmax(self.gate(x_nF), dim=1)
        x_nF = dropout(x_nF, self.dropout, self.training)
        num_experts, width, dim = self.expert.shape
        by_expert = x_nF @ self.expert.transpose(0, 1).reshape(width, num_experts * dim)
        shift_ED = torch.einsum("ef,efd->ed", self.center, self.expert)
        mixed = torch.einsum("ned,ne->nd", by_expert.view(-1, num_experts, dim), gates_nE)
        return (mixed - gates_nE @ shift_ED) * present
