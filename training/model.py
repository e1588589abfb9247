"""MDSRec (arXiv 2412.08103): Eq. 3, 6-9 and 11-24, for any number of modalities.

B users, T positions, P prefixes a user, C = 1 + |M| channels (fused, then each modality), X items,
D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mdsrec.config import Experiment
from training.graph import ItemTables, SparseRows
from training.losses import channel_losses
from training.transformer import Encoder, center_mixture

INIT_STD = 0.02


class ItemSide(NamedTuple):
    """What the weights alone decide, the same for every user."""

    vectors: Tensor  # [C, X, D]: E^id, then Ehat^m, what each channel scores against (Eq. 20-21)
    centers: list[Tensor | None]  # c^0 of each modality, [K, D]


class Batch(NamedTuple):
    """A rank's part of a global step. Sequences are padded at their end."""

    items: Tensor  # int64 [B, T], the inputs
    targets: Tensor  # int64 [B, T], the event after each input
    counted: Tensor  # bool [B, T], prefixes whose loss counts
    noise: Tensor  # [B, T, |M|, K], logit(delta) of Eq. 19


class Modality(nn.Module):
    """One modality's constants and, without its graph (w/o MRGC), the map of its features to D."""

    def __init__(
        self,
        adjacency: SparseRows | None,
        features: Tensor | None,
        membership: SparseRows | None,
        dim: int,
    ) -> None:
        super().__init__()
        self.adjacency, self.membership = adjacency, membership
        self.feature_map = None if features is None else nn.Linear(features.shape[1], dim)
        self.features: Tensor | None
        self.register_buffer("features", features, persistent=False)

    def forward(self, embedding_XD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ehat^m [X, D] (Eq. 6) and c^0 [K, D] (Eq. 11)."""
        if self.adjacency is not None:
            items_XD = self.adjacency.times(embedding_XD)
        else:
            assert self.feature_map is not None and self.features is not None
            present = (self.features != 0).any(dim=1, keepdim=True)
            items_XD = self.feature_map(self.features) * present
        centers = None if self.membership is None else self.membership.times(items_XD)
        return items_XD, centers


class MDSRec(nn.Module):
    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__()
        config = experiment.model
        self.config = config
        self.modalities = experiment.modalities
        # Owned here and not by a submodule: under ZeRO-3 a parameter has a size in its owner's
        # forward alone.
        self.item_embedding = nn.Parameter(torch.empty(tables.num_items, config.dim))
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.cooccurrence = tables.cooccurrence
        self.constants = nn.ModuleDict(
            {
                _key(name): Modality(t.adjacency, t.features, t.membership, config.dim)
                for name, t in tables.modalities.items()
            }
        )
        self.encoders = nn.ModuleDict({"id": Encoder(config, has_centers=False)})
        for name in self.modalities:
            self.encoders[_key(name)] = Encoder(config, config.interest_centers)
        rho = torch.tensor([experiment.rho(name) for name in self.modalities])
        self.channel_weights: Tensor
        self.register_buffer("channel_weights", torch.cat([torch.ones(1), rho]), persistent=False)

    def initialize(self, seed: int) -> None:
        """normal(0, .02) for every matrix, zero biases, from `seed` alone."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, INIT_STD, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, batch: Batch) -> Tensor:
        """Loss of each channel, summed over the batch's counted prefixes -> [C] (Eq. 23-24).

        The objective is `channel_weights @ forward(batch)` over the number of prefixes.
        """
        side = self.item_side()
        at = torch.arange(batch.items.shape[1], device=batch.items.device).expand_as(batch.items)
        queries_BTCD = self.queries(batch.items, at, batch.noise, side)
        counted = batch.counted
        return channel_losses(queries_BTCD[counted], side.vectors, batch.targets[counted])

    def user_vectors(self, items_BT: Tensor, lengths_B: Tensor, side: ItemSide) -> Tensor:
        """The whole sequences' representations, without noise -> [B, C, D]."""
        return self.queries(items_BT, lengths_B[:, None] - 1, None, side)[:, 0]

    def item_side(self) -> ItemSide:
        embedding_XD = self.item_embedding
        sides = [self.constants[_key(name)](embedding_XD) for name in self.modalities]
        items_CXD = torch.stack([embedding_XD, *(items_XD for items_XD, _ in sides)])
        return ItemSide(items_CXD, [centers for _, centers in sides])

    def queries(
        self, items_BT: Tensor, at_BP: Tensor, noise: Tensor | None, side: ItemSide
    ) -> Tensor:
        """e_s and etilde^m of the prefixes that end at positions `at_BP` -> [B, P, C, D]."""
        T = items_BT.shape[1]
        visible_BPT = torch.arange(T, device=items_BT.device) <= at_BP[..., None]
        positions = self.position_embedding[:T]
        id_BTD, _ = self.encoders["id"](self._smoothed(items_BT) + positions, None, visible_BPT)
        fused = _taken(id_BTD, at_BP)
        queries = []
        for index, name in enumerate(self.modalities):
            x_BTD = side.vectors[1 + index][items_BT] + positions  # Eq. 9
            x_BTD, c_BPKD = self.encoders[_key(name)](x_BTD, side.centers[index], visible_BPT)
            e_BPD = _taken(x_BTD, at_BP)
            fused = fused + self.channel_weights[1 + index] * e_BPD  # Eq. 17
            if c_BPKD is not None:
                delta = None if noise is None else noise[:, :, index]
                e_BPD = e_BPD + center_mixture(e_BPD, c_BPKD, delta, self.config.tau)  # Eq. 18
            queries.append(e_BPD)
        return torch.stack([fused, *queries], dim=2)

    def _smoothed(self, items_BT: Tensor) -> Tensor:
        """Ebar^id = mu N(O) E^id + E^id for the items at hand -> [B, T, D] (Eq. 3)."""
        if self.config.mu_id == 0:
            return self.item_embedding[items_BT]
        distinct, place = torch.unique(items_BT, return_inverse=True)
        behaviour = self.cooccurrence.times(self.item_embedding, distinct)
        return (self.item_embedding[distinct] + self.config.mu_id * behaviour)[place]


def _key(modality: str) -> str:
    """A name that no attribute of a module dictionary bears."""
    return f"modality_{modality}"


def _taken(x_BTD: Tensor, at_BP: Tensor) -> Tensor:
    return x_BTD.gather(1, at_BP[..., None].expand(-1, -1, x_BTD.shape[-1]))
