"""Item representations: products of the item tables with E^id (Eq. 3, 6, 11, 20 and 21).

C = 1 + |M| channels (fused, then each modality), X items, n of them, D width, K centers.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import MDSRecConfig
from training.data.batch import SparseRows
from training.data.column_blocks import times_in_blocks
from training.data.device_matrices import STACKED, StackedEntries
from training.data.item_tables import ItemTables
from training.data.long_rows import LongRows
from training.data.plans import SumPlan
from training.data.sparse import Entries, Rows, identity, multiply_all
from training.layers.modality import Modality
from training.losses.full_softmax import Channel
from training.losses.tile_arithmetic import EPS

ROWS = 8192  # items whose vectors are computed at once for ranking


class MDSRecItemVectors(NamedTuple):
    """`ItemVectors` of MDSRec."""

    vectors: Tensor  # [C, X, D], E^id, then Ehat^m; of length 1 where scores are cosines
    lengths: Tensor | None  # [C, X, 1], the lengths by which they were divided
    smoothed: Tensor  # [X, D], Ebar^id
    centers: list[Tensor | None]  # c^0 of each modality, [K, D]

    def tokens(self, items: Tensor) -> list[Tensor]:
        """Return Ebar^id of the items, then Ehat^m of each modality -> [n, D] each."""
        vectors_CnD = self.vectors[1:, items]
        if self.lengths is not None:
            vectors_CnD = vectors_CnD * self.lengths[1:, items]
        return [self.smoothed[items], *vectors_CnD]


class BatchTokens(NamedTuple):
    """The vectors that sequences of a batch are made of."""

    tokens_of_channel: list[Tensor]  # [n, D] each
    centers: list[Tensor | None]

    def tokens(self, items: Tensor) -> list[Tensor]:
        """Return the tokens of items, which are numbered as in the batch."""
        return [tokens_nD[items] for tokens_nD in self.tokens_of_channel]


class ItemRepresentations(nn.Module):
    """Constant item tables, and the linear maps of raw features where there is no graph.

    E^id is an argument of the methods, because under ZeRO-3 only the module that owns a parameter
    can read it.
    """

    def __init__(self, config: MDSRecConfig, tables: ItemTables) -> None:
        super().__init__()
        self.names, self.num_items = tuple(tables.modalities), tables.num_items
        self.mu_id, self.unit = config.mu_id, config.scores_cosines
        assert tables.cooccurrence is not None
        self.cooccurrence = tables.cooccurrence
        self.constants = nn.ModuleDict(
            {
                module_key(name): Modality(tables.modalities[name], config.dim, tables)
                for name in self.names
            }
        )

        if config.center_refresh > 1:
            for modality in self.modalities.values():
                modality.keep_centers(config.num_centers, config.dim)

    @property
    def kept_centers(self) -> dict[str, Tensor]:
        """Return c^0 [K, D] of the modalities where it is kept for several steps."""
        return {name: m.kept for name, m in self.modalities.items() if m.kept is not None}

    @torch.no_grad()
    def keep_centers(self, products: Mapping[str, Tensor]) -> None:
        """Keep c^0, which are products of `center_rows`."""
        for name, kept_KD in self.kept_centers.items():
            kept_KD.copy_(products[f"centers of {name}"])

    @property
    def modalities(self) -> dict[str, Modality]:
        return {name: cast(Modality, self.constants[module_key(name)]) for name in self.names}

    def entries(
        self, items: Tensor, device: torch.device
    ) -> tuple[dict[str, Entries], dict[str, SumPlan]]:
        """Select the sparse rows that give the tokens of items [n], by product.

        Those whose products are summed at the owners of E^id are the second result. `items` are in
        host memory.
        """
        rows = items.numpy()
        near = self.cooccurrence.select(rows, device)
        selected = {"own": identity(items.to(device))}
        sums = {"near": near} if isinstance(near, SumPlan) else {}
        selected |= {} if isinstance(near, SumPlan) else {"near": near}
        for name, modality in self.modalities.items():
            if modality.graph is not None:
                selected[f"tokens of {name}"] = modality.graph.select(rows, device)
        return selected, sums

    @property
    def center_rows(self) -> dict[str, LongRows]:
        """Return C Ahat of each modality that has it, by product."""
        found = {f"centers of {name}": m.centers for name, m in self.modalities.items()}
        return {product: rows for product, rows in found.items() if rows is not None}

    def scored_entries(self, items: Tensor, device: torch.device) -> dict[str, Entries]:
        """Select the sparse rows that give the vectors of scored items."""
        graphs = {name: m.graph for name, m in self.modalities.items() if m.graph is not None}
        selected = {n: graph.select(items.numpy(), device) for n, graph in graphs.items()}
        return {"id": identity(items.to(device)), **selected}

    def mapped_features(self, items: Tensor | None) -> dict[str, Tensor]:
        """Return the mapped features of the items (None: all) of each modality without a graph."""
        return {name: m(items) for name, m in self.modalities.items() if m.graph is None}

    def sequence_inputs(
        self,
        embedding_XD: Tensor,
        items: Tensor,
        entries: SparseRows,
        mapped: Mapping[str, Tensor],
        of_owners: Mapping[str, Tensor],
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """Return E^id, the tokens of the items [n, D] per channel, and c^0 [K, D] per modality.

        All sparse products of a step with E^id happen here, except those of sampled scored items
        and those `of_owners`, which the owners of items computed. `mapped` is what
        `mapped_features` returned for all items, or empty.
        """
        matrices = self._with_centers(entries, of_owners)
        embedding_XD, products = multiply_all(embedding_XD, matrices, self.num_items)
        products |= of_owners
        if isinstance(together := entries.get(STACKED), StackedEntries):
            products |= together.split(products[STACKED])
        tokens, centers = [self.smooth(products["own"], products["near"])], []
        for name, modality in self.modalities.items():
            if modality.graph is not None:
                tokens.append(products[f"tokens of {name}"])
                centers.append(products.get(f"centers of {name}", modality.kept))
            else:
                index = items.to(embedding_XD.device)
                tokens.append(mapped[name][index] if name in mapped else modality(index))
                centers.append(modality.mapped_centers())
        return embedding_XD, tokens, centers

    def _with_centers(
        self, entries: SparseRows, of_owners: Mapping[str, Tensor]
    ) -> dict[str, Rows]:
        """Add C Ahat of each modality whose c^0 is computed in every step, after its tokens."""
        first = ("own", "near", STACKED)
        matrices: dict[str, Rows] = {n: entries[n] for n in first if n in entries}
        for name, modality in self.modalities.items():
            tokens, centers = f"tokens of {name}", f"centers of {name}"
            if tokens in entries:
                matrices[tokens] = entries[tokens]
            is_read = modality.kept is None and centers not in of_owners
            if modality.centers is not None and is_read:
                matrices[centers] = modality.centers
        return matrices

    def channels(
        self, embedding_XD: Tensor, mapped: Mapping[str, Tensor]
    ) -> tuple[list[Channel], list[Tensor]]:
        """Return the channels of the full softmax and the tables that their vectors come from."""
        channels, tables = [Channel(0, None)], [embedding_XD]
        for name, modality in self.modalities.items():
            channels.append(Channel(len(tables) if name in mapped else 0, modality.graph))
            tables += [mapped[name]] if name in mapped else []
        return channels, tables

    def scored_vectors(
        self, embedding_XD: Tensor, items: Tensor, entries: SparseRows
    ) -> Sequence[Tensor]:
        """Return the vectors that each channel scores the items by -> [n, D] each (Eq. 20-21).

        `embedding_XD` is the one that `sequence_inputs` returned, and is not used elsewhere.
        """
        _, products = multiply_all(embedding_XD, entries, self.num_items)
        if isinstance(together := entries.get(STACKED), StackedEntries):
            products |= together.split(products[STACKED])
        index = items.to(embedding_XD.device)
        vectors = [products["id"]]
        for name, modality in self.modalities.items():
            vectors.append(products[name] if name in products else modality(index))
        return [F.normalize(v, dim=-1) for v in vectors] if self.unit else vectors

    @torch.no_grad()
    def item_vectors(self, embedding_XD: Tensor) -> MDSRecItemVectors:
        """Return vectors, tokens and c^0 for ranking, in blocks of items."""
        num_items, modalities = len(embedding_XD), self.modalities.values()
        vectors_CXD = embedding_XD.new_empty(1 + len(modalities), *embedding_XD.shape)
        vectors_CXD[0] = embedding_XD
        centers: list[Tensor | None] = []
        for vectors_XD, modality in zip(vectors_CXD[1:], modalities, strict=True):
            if modality.graph is None:
                vectors_XD.copy_(modality())
                centers.append(modality.mapped_centers())
                continue
            for first in range(0, num_items, ROWS):
                entries = modality.graph.between(first, min(first + ROWS, num_items))
                vectors_XD[first : first + ROWS] = entries.times(embedding_XD)  # Eq. 6
            start = modality.centers
            centers.append(None if start is None else start.times_in_blocks(embedding_XD))
        lengths = self.divide_by_lengths(vectors_CXD)
        return MDSRecItemVectors(vectors_CXD, lengths, self._smooth_all(embedding_XD), centers)

    def divide_by_lengths(self, vectors_CnD: Tensor) -> Tensor | None:
        """Scale vectors in place to length 1 if scores are cosines -> their lengths [C, n, 1]."""
        if not self.unit:
            return None
        lengths: Tensor = vectors_CnD.norm(dim=-1, keepdim=True).clamp_min_(EPS)
        vectors_CnD /= lengths
        return lengths

    @torch.no_grad()
    def own_vectors(self, table_nD: Tensor, num_own: int) -> MDSRecItemVectors:
        """Return the vectors of the items that this rank owns, for ranking [C, n, D].

        `table_nD` holds their rows of E^id, and those of the halo behind.
        """
        vectors_CnD = self.unscaled_vectors(table_nD, num_own, None)
        self.divide_by_lengths(vectors_CnD)
        return MDSRecItemVectors(vectors_CnD, None, vectors_CnD[0, :0], [])

    def unscaled_vectors(self, table_nD: Tensor, num_own: int, items: Tensor | None) -> Tensor:
        """Return the vectors of the own items [C, n, D], of any length.

        `items` (None: the own ones) may be more.
        """
        channels, tables = self.channels(table_nD, self.mapped_features(items))
        vectors_CnD = table_nD.new_empty(len(channels), num_own, table_nD.shape[1])
        for vectors_nD, channel in zip(vectors_CnD, channels, strict=True):
            for first in range(0, num_own, ROWS):
                last = min(first + ROWS, num_own)
                vectors_nD[first:last] = channel.vectors(tables, first, last)
        return vectors_CnD

    def _smooth_all(self, embedding_XD: Tensor) -> Tensor:
        """Return Ebar^id of all items [X, D]."""
        smoothed_XD = torch.empty_like(embedding_XD)
        for first in range(0, len(embedding_XD), ROWS):
            own = embedding_XD[first : first + ROWS]
            rows = np.arange(first, first + len(own))
            entries = self.cooccurrence.select(rows, own.device)
            assert isinstance(entries, Entries)
            near = times_in_blocks(entries, embedding_XD)
            smoothed_XD[first : first + ROWS] = self.smooth(own, near)
        return smoothed_XD

    def smooth(self, own: Tensor, near: Tensor) -> Tensor:
        """Return Ebar^id = mu N(O) E^id + E^id (Eq. 3)."""
        return own + self.mu_id * near


def module_key(modality: str) -> str:
    """Return a key for a ModuleDict. A bare modality name could equal one of its attributes."""
    return f"modality_{modality}"
