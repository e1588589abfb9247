"""What the tables say of items, and its products with E^id: Eq. 3, 6, 11, 20 and 21.

C = 1 + |M| channels (fused, then each modality), X items, n of them in a batch, D width, K centres.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from training.data.item_tables import ItemTables
from training.data.sparse import Entries, identity, read
from training.layers.losses import EPS, Channel
from training.layers.modality import Modality

ROWS = 8192  # smoothed together


class MDSRecItemVectors(NamedTuple):
    """What the weights alone decide, the same for every user."""

    vectors: Tensor  # [C, X, D]: E^id, then Ehat^m, what each channel scores against (Eq. 20-21)
    lengths: Tensor | None  # [C, X, 1], what they were divided by
    smoothed: Tensor  # [X, D], Ebar^id
    centers: list[Tensor | None]  # c^0 of each modality, [K, D]

    def tokens(self, items: Tensor) -> list[Tensor]:
        """Ebar^id of the items, then Ehat^m, what sequences are made of -> [n, D] each."""
        vectors_CnD = self.vectors[1:, items]
        if self.lengths is not None:
            vectors_CnD = vectors_CnD * self.lengths[1:, items]
        return [self.smoothed[items], *vectors_CnD]


class ItemRepresentations(nn.Module):
    """The constants of the model, and the maps of modalities without a graph. E^id is handed in."""

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__()
        config, self.names = experiment.mdsrec, experiment.modalities
        self.mu_id, self.unit = config.mu_id, config.scores_cosines
        assert tables.cooccurrence is not None
        self.cooccurrence = tables.cooccurrence
        self.constants = nn.ModuleDict(
            {
                module_key(name): Modality(tables.modalities[name], config.dim, tables.num_items)
                for name in self.names
            }
        )

    @property
    def modalities(self) -> dict[str, Modality]:
        return {name: cast(Modality, self.constants[module_key(name)]) for name in self.names}

    def entries(self, items: Tensor, device: torch.device) -> dict[str, Entries]:
        """The rows that items [n] of a batch, in the host's memory, are read by."""
        rows = items.numpy()
        wanted = {
            "own": identity(items.to(device)),
            "near": self.cooccurrence.select(rows, device),
        }
        for name, modality in self.modalities.items():
            if modality.graph is not None:
                wanted[f"tokens of {name}"] = modality.graph.matrix.select(rows, device)
                if modality.centers is not None:
                    wanted[f"centers of {name}"] = modality.centers.all()
        return wanted

    def scored_entries(self, items: Tensor, device: torch.device) -> dict[str, Entries]:
        """The rows that items which are scored are read by."""
        graphs = {name: m.graph for name, m in self.modalities.items() if m.graph is not None}
        chosen = {n: graph.matrix.select(items.numpy(), device) for n, graph in graphs.items()}
        return {"id": identity(items.to(device)), **chosen}

    def mapped(self) -> dict[str, Tensor]:
        """All items' features [X, D], mapped, of the modalities without a graph."""
        return {name: m() for name, m in self.modalities.items() if m.graph is None}

    def read(
        self,
        embedding_XD: Tensor,
        items: Tensor,
        entries: dict[str, Entries],
        mapped: Mapping[str, Tensor],
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """E^id, each channel's tokens of the items [n, D], and c^0 of each modality [K, D].

        Every sparse product of the step with E^id but those of its scored items is taken here,
        once. `mapped` is empty where items are not all scored.
        """
        embedding_XD, found = read(embedding_XD, entries)
        tokens, centers = [self._smoothed(found["own"], found["near"])], []
        for name, modality in self.modalities.items():
            if modality.graph is not None:
                tokens.append(found[f"tokens of {name}"])
                centers.append(found.get(f"centers of {name}"))
            else:
                place = items.to(embedding_XD.device)
                tokens.append(mapped[name][place] if name in mapped else modality(place))
                centers.append(modality.mapped_centers())
        return embedding_XD, tokens, centers

    def channels(
        self, embedding_XD: Tensor, mapped: Mapping[str, Tensor]
    ) -> tuple[list[Channel], list[Tensor]]:
        """Where each channel's vectors of all items come from, and the tables they come from."""
        found, tables = [Channel(0, None)], [embedding_XD]
        for name, modality in self.modalities.items():
            found.append(Channel(len(tables) if name in mapped else 0, modality.graph))
            tables += [mapped[name]] if name in mapped else []
        return found, tables

    def scored_vectors(
        self, embedding_XD: Tensor, items: Tensor, entries: dict[str, Entries]
    ) -> Sequence[Tensor]:
        """What each channel scores the items by (Eq. 20-21), [n, D] each.

        `embedding_XD` is as `read` returned it, and has no other use.
        """
        _, found = read(embedding_XD, entries)
        place = items.to(embedding_XD.device)
        vectors = [found["id"]]
        for name, modality in self.modalities.items():
            vectors.append(found[name] if name in found else modality(place))
        return [F.normalize(v, dim=-1) for v in vectors] if self.unit else vectors

    @torch.no_grad()
    def item_vectors(self, embedding_XD: Tensor) -> MDSRecItemVectors:
        num_items, modalities = len(embedding_XD), self.modalities.values()
        smoothed = torch.empty_like(embedding_XD)
        for first in range(0, num_items, ROWS):
            own = embedding_XD[first : first + ROWS]
            rows = np.arange(first, first + len(own))
            near = self.cooccurrence.select(rows, own.device).times(embedding_XD)
            smoothed[first : first + ROWS] = self._smoothed(own, near)
        vectors_CXD = embedding_XD.new_empty(1 + len(modalities), *embedding_XD.shape)
        vectors_CXD[0] = embedding_XD
        centers: list[Tensor | None] = []
        for of_items_XD, modality in zip(vectors_CXD[1:], modalities, strict=True):
            if modality.graph is None:
                of_items_XD.copy_(modality())
                centers.append(modality.mapped_centers())
                continue
            for first in range(0, num_items, ROWS):
                entries = modality.graph.between(first, min(first + ROWS, num_items))
                of_items_XD[first : first + ROWS] = entries.times(embedding_XD)  # Eq. 6
            start = modality.centers
            centers.append(None if start is None else start.times(embedding_XD))
        lengths = None
        if self.unit:
            lengths = vectors_CXD.norm(dim=-1, keepdim=True).clamp_min_(EPS)
            vectors_CXD /= lengths
        return MDSRecItemVectors(vectors_CXD, lengths, smoothed, centers)

    def _smoothed(self, own: Tensor, near: Tensor) -> Tensor:
        """Ebar^id = mu N(O) E^id + E^id (Eq. 3)."""
        return own + self.mu_id * near


def module_key(modality: str) -> str:
    """A name that no attribute of a module dictionary bears."""
    return f"modality_{modality}"
