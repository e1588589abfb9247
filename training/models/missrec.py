"""MISSRec: Wang et al., MISSRec: Pre-training and Transferring Multi-modal Interest-aware Sequence
Representation for Recommendation, ACM MM 2023 (arXiv 2308.11175), without the pre-training.

An interest is a cluster of the items of one modality. Its vector is the mean of their adapted
vectors v. An encoder reads the distinct interests of a sequence (Eq. 4-5). A decoder reads the
items v + E + P and attends to earlier items and to the interests (Eq. 6-8). score = cos(x_t, .) /
temperature with the id and the modalities of an item, (id + M sum_m w_m modality_m) / (1 + M) with
learned w (Eq. 11-13).

Departs from the original: interests are the k-means clusters of each modality in the tables instead
of DPC-kNN clusters over both, and they follow the adaptors in every step instead of every epoch; an
interest attends only to interests of the same or earlier items, so that one pass gives every
prefix; the fusion has learned weights per item (the original's `dynamic_instance`) that do not
depend on the user, because a score is an inner product here; input vectors are whitened; the
orthogonality term, of weight 1e-4, is left out.

B users, T positions, M modalities, S = T M interests of a user, X items, n of them, D width. The
memory of the decoder has 1 + S rows.
"""

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.models import MISSRecConfig
from training.data.item_tables import ItemTables, ModalityTables
from training.layers.dropout import dropout
from training.layers.features import whiten
from training.layers.item_constants import ItemConstants
from training.layers.modality import Modality
from training.layers.transformer import NORM_EPS, Encoder, attention, split_heads
from training.models.next_item import NextItem

NO_INTEREST = -1
MASKED = -1e4  # logit whose softmax weight is zero


class MISSRec(NextItem):
    config: MISSRecConfig
    item_parameters = ("item_embedding", "fusion")

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        self.unit = False  # `vectors` already returns means of vectors of length 1
        config, modalities = self.config, tables.modalities.values()
        half = config.model_copy(update={"num_layers": config.num_layers // 2})
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.no_interest = nn.Parameter(torch.empty(1, config.dim))
        self.fusion = nn.Parameter(torch.empty(tables.num_parameter_rows, len(modalities)))
        self.adaptors = nn.ModuleList(
            Modality(_with_whitened_features(modality, tables), config.dim, tables)
            for modality in modalities
        )
        self.interests = ItemConstants(_interests_of_items(tables))
        self.encoder = Encoder(half)
        self.decoder = Decoder(half)

    def vectors(self, items: Tensor | None) -> Tensor:
        fusion_nM = self.rows_of("fusion", items)
        absent_nM = self._interests(items) == NO_INTEREST
        weights_nM = torch.softmax(fusion_nM.masked_fill(absent_nM, MASKED), dim=1)
        adapted_nMD = F.normalize(self._adapt(items), dim=-1)
        modalities_nD = (weights_nM[..., None] * adapted_nMD).sum(dim=1)
        M = weights_nM.shape[1]
        id_nD = F.normalize(self.embed(items), dim=-1)
        return (id_nD + M * modalities_nD) / (1 + M)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        """Return v + E [n, D], and the vectors [n, M, D] and numbers [n, M] of the interests."""
        items_nD = self.embed(items) + self._adapt(items).sum(dim=1)
        number_nM = self._interests(items)
        vectors = []
        for adaptor, number_n in zip(self.adaptors, number_nM.unbind(dim=1), strict=True):
            centers_KD = cast(Modality, adaptor).mapped_centers()
            assert centers_KD is not None
            vectors.append(centers_KD[number_n])  # for NO_INTEREST any vector: it is never seen
        return items_nD, torch.stack(vectors, dim=1), number_nM

    def queries(self, tokens: tuple[Tensor, ...], index_BT: Tensor) -> Tensor:
        items_nD, vectors_nMD, number_nM = tokens
        items_BTD = F.embedding(index_BT, items_nD)
        B, T, D = items_BTD.shape
        interests_BTMD = F.embedding(index_BT, vectors_nMD.flatten(1)).view(B, T, -1, D)
        number_BTM = number_nM[index_BT]
        M = number_BTM.shape[2]
        positions_T = torch.arange(T, device=index_BT.device)
        positions_S = positions_T.repeat_interleave(M)  # of each interest
        first_BS = _is_first(number_BTM).flatten(1)
        seen_BTS = first_BS[:, None] & (positions_S <= positions_T[:, None])
        seen_BSS = first_BS[:, None] & (positions_S <= positions_S[:, None])
        # Row 0 of the memory is seen by all, so that a prefix without an interest sees one row.
        no_interest = self.no_interest.expand(B, 1, -1)
        memory = torch.cat([no_interest, interests_BTMD.flatten(1, 2)], dim=1)
        seen_BSS = F.pad(F.pad(seen_BSS, (0, 0, 1, 0)), (1, 0), value=True)
        seen_BTS = F.pad(seen_BTS, (1, 0), value=True)
        memory = self.encoder(memory, seen_BSS[:, None])
        x_BTD = items_BTD + self.position_embedding[:T]
        decoded: Tensor = self.decoder(x_BTD, memory, seen_BTS[:, None])
        return decoded

    def _adapt(self, items: Tensor | None) -> Tensor:
        """Return v, the adapted vectors of every modality -> [n, M, D]."""
        return torch.stack([adaptor(items) for adaptor in self.adaptors], dim=1)

    def _interests(self, items: Tensor | None) -> Tensor:
        found: Tensor = self.interests(items)
        return found


class Decoder(nn.Module):
    """Post-norm layers over the items, in the form of torch's TransformerDecoder."""

    def __init__(self, config: MISSRecConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))

    def forward(self, x_BTD: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        x_BTD = dropout(self.norm(x_BTD), self.dropout, self.training)
        for layer in self.layers:
            x_BTD = layer(x_BTD, memory, seen)
        return x_BTD


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the interests, and a feed-forward network."""

    def __init__(self, config: MISSRecConfig) -> None:
        super().__init__()
        dim = config.dim
        self.dropout = config.dropout
        self.own, self.interests = Attention(config), Attention(config)
        self.inner, self.outer = nn.Linear(dim, config.inner_dim), nn.Linear(config.inner_dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=NORM_EPS) for _ in range(3))

    def forward(self, x_BTD: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """Return the items after this layer [B, T, D].

        `seen`, bool [B, 1, T, 1 + S], marks the memory rows that each position attends to.
        """
        x_BTD = self._add_and_norm(0, x_BTD, self.own(x_BTD, x_BTD, None))
        x_BTD = self._add_and_norm(1, x_BTD, self.interests(x_BTD, memory, seen))
        return self._add_and_norm(2, x_BTD, self.outer(F.gelu(self.inner(x_BTD))))

    def _add_and_norm(self, norm: int, x_BTD: Tensor, y_BTD: Tensor) -> Tensor:
        after_BTD: Tensor = self.norms[norm](x_BTD + dropout(y_BTD, self.dropout, self.training))
        return after_BTD


class Attention(nn.Module):
    """Multi-head attention with linear queries, keys, values and output."""

    def __init__(self, config: MISSRecConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, memory: Tensor, seen: Tensor | None) -> Tensor:
        """Attend to the memory rows that are `seen`, bool [B, 1, T, rows]. None means causal."""
        attended = attention(
            split_heads(self.query(x_BTD), self.num_heads),
            split_heads(self.key(memory), self.num_heads),
            split_heads(self.value(memory), self.num_heads),
            seen,
            self.dropout if self.training else 0.0,
        )
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return mixed


def _is_first(number_BTM: Tensor) -> Tensor:
    """Mark the interests that no earlier item of the sequence has -> bool [B, T, M]."""
    T = number_BTM.shape[1]
    earlier_TT = torch.ones(T, T, dtype=torch.bool, device=number_BTM.device).tril(-1)
    same_BTTM = number_BTM[:, :, None] == number_BTM[:, None]
    repeated_BTM = (same_BTTM & earlier_TT[..., None]).any(dim=2)
    return ~repeated_BTM & (number_BTM != NO_INTEREST)


def _with_whitened_features(modality: ModalityTables, tables: ItemTables) -> ModalityTables:
    assert modality.features is not None
    return replace(modality, features=whiten(modality.features, own=tables.own))


def _interests_of_items(tables: ItemTables) -> Tensor:
    """Return the cluster of each item in each modality -> int64 [X, M]."""
    interest_XM = torch.full((tables.num_parameter_rows, len(tables.modalities)), NO_INTEREST)
    for m, modality in enumerate(tables.modalities.values()):
        members = modality.membership
        assert members is not None
        cluster = np.repeat(np.arange(members.num_rows), np.diff(members.starts))
        interest_XM[members.columns, m] = torch.from_numpy(cluster)
    return interest_XM
