"""MISSRec: Wang et al., MISSRec: Pre-training and Transferring Multi-modal Interest-aware Sequence
Representation for Recommendation, ACM MM 2023 (arXiv 2308.11175); without the pre-training.

An interest is a cluster of a modality's items, its vector the mean of theirs, adapted. An encoder
reads the distinct interests of a sequence (Eq. 4-5), a decoder the items v + E + P, each looking at
the items before it and at the interests (Eq. 6-8). score = cos(x_t, .) / temperature with an item's
id and modalities, (id + M sum_m w_m modality_m) / (1 + M), w learned (Eq. 11-13).

Departs from the original: interests are the k-means clusters of each modality that the tables hold,
not DPC-kNN over both, and follow the adaptors in every step, not every epoch; an interest sees the
interests of the items before it, so that one pass gives every prefix; the fusion weighs an item's
modalities by weights of the item (their `dynamic_instance`) that do not look at the user, as a
score is an inner product here; vectors are whitened; the orthogonality term, of weight 1e-4, is
left out.
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
from training.layers.features import whitened
from training.layers.modality import Modality
from training.layers.transformer import NORM_EPS, Encoder, split_heads
from training.models.next_item import NextItem

NO_INTEREST = -1
LEAST = -1e4  # before a softmax: nothing of it


class MISSRec(NextItem):
    config: MISSRecConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        self.unit = False  # a mean of vectors of length 1
        config, modalities = self.config, tables.modalities.values()
        half = config.model_copy(update={"num_layers": config.num_layers // 2})
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.no_interest = nn.Parameter(torch.empty(1, config.dim))
        self.fusion = nn.Parameter(torch.empty(tables.num_items, len(modalities)))
        self.adaptors = nn.ModuleList(
            Modality(_whitened(of_modality), config.dim, tables.num_items)
            for of_modality in modalities
        )
        self.interests: Tensor  # [X, M], the cluster of each item
        self.register_buffer("interests", _interests(tables), persistent=False)
        self.encoder = Encoder(half)
        self.decoder = Decoder(half)

    def vectors(self, items: Tensor | None) -> Tensor:
        fusion_nM = self.fusion if items is None else self.fusion[items]
        absent_nM = self._interests_of(items) == NO_INTEREST
        weights_nM = torch.softmax(fusion_nM.masked_fill(absent_nM, LEAST), dim=1)
        adapted_nMD = F.normalize(self._adapted(items), dim=-1)
        of_modalities = (weights_nM[..., None] * adapted_nMD).sum(dim=1)
        num_modalities = weights_nM.shape[1]
        of_id = F.normalize(self.embedded(items), dim=-1)
        return (of_id + num_modalities * of_modalities) / (1 + num_modalities)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        """v + E [n, D]; the vectors [n, M, D] and the numbers [n, M] of the items' interests."""
        own = self.embedded(items) + self._adapted(items).sum(dim=1)
        numbers = self._interests_of(items)
        found = []
        for adaptor, number_n in zip(self.adaptors, numbers.unbind(dim=1), strict=True):
            centers_KD = cast(Modality, adaptor).mapped_centers()
            assert centers_KD is not None
            found.append(centers_KD[number_n])
        return own, torch.stack(found, dim=1), numbers

    def queries(self, tokens: tuple[Tensor, ...], index_BT: Tensor) -> Tensor:
        own = F.embedding(index_BT, tokens[0])
        interests = F.embedding(index_BT, tokens[1].flatten(1)).view(
            *own.shape[:2], -1, own.shape[2]
        )
        numbers = tokens[2][index_BT]
        B, T, M = numbers.shape
        at_T = torch.arange(T, device=index_BT.device)
        at_S = at_T.repeat_interleave(M)  # of each interest, T M of them
        first_BS = _is_first(numbers).flatten(1)
        seen_BTS = first_BS[:, None] & (at_S <= at_T[:, None])
        seen_BSS = first_BS[:, None] & (at_S <= at_S[:, None])
        # Whoever has no interest yet looks at a vector that says so.
        memory = torch.cat([self.no_interest.expand(B, 1, -1), interests.flatten(1, 2)], dim=1)
        seen_BSS = F.pad(F.pad(seen_BSS, (0, 0, 1, 0)), (1, 0), value=True)
        memory = self.encoder(memory, seen_BSS[:, None])
        x_BTD = own + self.position_embedding[:T]
        decoded: Tensor = self.decoder(x_BTD, memory, F.pad(seen_BTS, (1, 0), value=True)[:, None])
        return decoded

    def _adapted(self, items: Tensor | None) -> Tensor:
        """The items' vectors of every modality -> [n, M, D]."""
        return torch.stack([adaptor(items) for adaptor in self.adaptors], dim=1)

    def _interests_of(self, items: Tensor | None) -> Tensor:
        return self.interests if items is None else self.interests[items]


class Decoder(nn.Module):
    """Post-norm layers over the items, as torch's TransformerDecoder has them."""

    def __init__(self, config: MISSRecConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, seen: Tensor) -> Tensor:
        x_BTD = dropout(self.norm(x_BTD), self.dropout, self.training)
        for layer in self.layers:
            x_BTD = layer(x_BTD, memory_BSD, seen)
        return x_BTD


class DecoderLayer(nn.Module):
    def __init__(self, config: MISSRecConfig) -> None:
        super().__init__()
        dim = config.dim
        self.dropout = config.dropout
        self.own, self.interests = Attention(config), Attention(config)
        self.inner, self.outer = nn.Linear(dim, config.inner_dim), nn.Linear(config.inner_dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=NORM_EPS) for _ in range(3))

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, seen: Tensor) -> Tensor:
        """Each position looks at those before it, then at what it has `seen` of the memory."""
        x_BTD = self._added(0, x_BTD, self.own(x_BTD, x_BTD, None))
        x_BTD = self._added(1, x_BTD, self.interests(x_BTD, memory_BSD, seen))
        return self._added(2, x_BTD, self.outer(F.gelu(self.inner(x_BTD))))

    def _added(self, norm: int, x_BTD: Tensor, of_layer: Tensor) -> Tensor:
        added: Tensor = self.norms[norm](x_BTD + dropout(of_layer, self.dropout, self.training))
        return added


class Attention(nn.Module):
    def __init__(self, config: MISSRecConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, seen: Tensor | None) -> Tensor:
        """Causal where nothing says what is seen, bool [B, 1, T, S]."""
        attended = F.scaled_dot_product_attention(
            split_heads(self.query(x_BTD), self.num_heads),
            split_heads(self.key(memory_BSD), self.num_heads),
            split_heads(self.value(memory_BSD), self.num_heads),
            attn_mask=seen,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=seen is None,
        )
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return mixed


def _is_first(numbers_BTM: Tensor) -> Tensor:
    """Whether an item's interest is one that no item before it has -> bool [B, T, M]."""
    T = numbers_BTM.shape[1]
    before_TT = torch.ones(T, T, dtype=torch.bool, device=numbers_BTM.device).tril(-1)
    same_BTTM = numbers_BTM[:, :, None] == numbers_BTM[:, None]
    again = (same_BTTM & before_TT[..., None]).any(dim=2)
    return ~again & (numbers_BTM != NO_INTEREST)


def _whitened(tables: ModalityTables) -> ModalityTables:
    assert tables.features is not None
    return replace(tables, features=whitened(tables.features))


def _interests(tables: ItemTables) -> Tensor:
    """The cluster of each item in each modality -> int64 [X, M]."""
    found = torch.full((tables.num_items, len(tables.modalities)), NO_INTEREST)
    for index, of_modality in enumerate(tables.modalities.values()):
        members = of_modality.membership
        assert members is not None
        cluster = np.repeat(np.arange(members.num_rows), np.diff(members.starts))
        found[members.columns, index] = torch.from_numpy(cluster)
    return found
