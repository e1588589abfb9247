"""MDSRec (arXiv 2412.08103): Eq. 3, 6-9, 11, 17 and 20-24, for any number of modalities.

B users, T positions, P prefixes, C = 1 + |M| channels (fused, then each modality), X items, n of
them in a batch, D width, K centres.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from training.centers import Prefixes, center_mixture
from training.dropout import kept
from training.graph import ItemTables
from training.losses import Channel, item_softmax
from training.modality import Modality
from training.negatives import Scored, sampler_of
from training.sampled import sampled_softmax
from training.sparse import Entries, identity, read
from training.transformer import Encoder

INIT_STD = 0.02
ROWS = 8192  # smoothed together


class ItemSide(NamedTuple):
    """What the weights alone decide, the same for every user."""

    vectors: Tensor  # [C, X, D]: E^id, then Ehat^m, what each channel scores against (Eq. 20-21)
    tokens: list[Tensor]  # [X, D] each: Ebar^id, then Ehat^m, what sequences are made of
    centers: list[Tensor | None]  # c^0 of each modality, [K, D]


class Batch(NamedTuple):
    """A rank's part of a global step. Sequences are padded at their end."""

    items: Tensor  # int64 [n], the distinct items, in the host's memory
    place: Tensor  # int64 [B, T], the inputs as places in `items`
    prefixes: Tensor  # int64 [P], places in [B T] of the inputs whose prefix counts
    targets: Tensor  # int64 [P], the event after each prefix
    noise: Tensor  # [B, T, |M|, K], logit(delta) of Eq. 19
    scored: Scored | None = None  # what the sampled loss scores; None: every item
    entries: dict[str, Entries] | None = None  # the rows that `items` are read by; none: not yet
    scored_entries: dict[str, Entries] | None = None  # those of the scored items


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
        self.sampler = sampler_of(experiment.train, tables)
        self.constants = nn.ModuleDict(
            {
                _key(name): Modality(tables.modalities[name], config.dim, tables.num_items)
                for name in self.modalities
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
        mapped = [
            m() if m.graph is None and batch.scored is None else None
            for m in self.modality_constants()
        ]
        batch = self.with_entries(batch) if batch.entries is None else batch
        assert batch.entries is not None
        embedding_XD, tokens, centers = self.read_items(batch.items, batch.entries, mapped)
        at_T = torch.arange(batch.place.shape[1], device=batch.place.device)
        at_BT = at_T.expand_as(batch.place)
        queries_BTCD = self.queries(tokens, centers, batch.place, at_BT, batch.noise)
        queries_PCD = queries_BTCD.flatten(0, 1).index_select(0, batch.prefixes)
        if batch.scored is not None:
            assert batch.scored_entries is not None
            vectors = self.read_vectors(embedding_XD, batch.scored.items, batch.scored_entries)
            return sampled_softmax(queries_PCD.transpose(0, 1), vectors, batch.scored)
        channels, tables = [Channel(0, None)], [embedding_XD]
        for constants, mapped_XD in zip(self.modality_constants(), mapped, strict=True):
            channels.append(Channel(0 if mapped_XD is None else len(tables), constants.graph))
            tables += [] if mapped_XD is None else [mapped_XD]
        return item_softmax(queries_PCD.transpose(0, 1), batch.targets, channels, tables)

    def user_vectors(self, items_BT: Tensor, lengths_B: Tensor, side: ItemSide) -> Tensor:
        """The whole sequences' representations, without noise -> [B, C, D]."""
        at_B1 = lengths_B[:, None] - 1
        return self.queries(side.tokens, side.centers, items_BT, at_B1, None)[:, 0]

    @torch.no_grad()
    def item_side(self) -> ItemSide:
        embedding_XD, num_items = self.item_embedding, len(self.item_embedding)
        smoothed = torch.empty_like(embedding_XD)
        for first in range(0, num_items, ROWS):
            rows = np.arange(first, min(first + ROWS, num_items))
            near = self.cooccurrence.select(rows, embedding_XD.device).times(embedding_XD)
            smoothed[first : first + ROWS] = self._smoothed(
                embedding_XD[first : first + ROWS], near
            )
        constants = self.modality_constants()
        vectors_CXD = embedding_XD.new_empty(1 + len(constants), *embedding_XD.shape)
        vectors_CXD[0] = embedding_XD
        centers: list[Tensor | None] = []
        for of_items_XD, modality in zip(vectors_CXD[1:], constants, strict=True):
            if modality.graph is None:
                of_items_XD.copy_(modality())
                centers.append(modality.mapped_centers())
                continue
            for first in range(0, num_items, ROWS):
                entries = modality.graph.between(first, min(first + ROWS, num_items))
                of_items_XD[first : first + ROWS] = entries.times(embedding_XD)  # Eq. 6
            start = modality.centers
            centers.append(None if start is None else start.times(embedding_XD))
        return ItemSide(vectors_CXD, [smoothed, *vectors_CXD[1:]], centers)

    def queries(
        self,
        tokens: list[Tensor],
        centers: list[Tensor | None],
        place_BT: Tensor,
        at_BP: Tensor,
        noise: Tensor | None,
    ) -> Tensor:
        """e_s and etilde^m of the prefixes that end at positions `at_BP` -> [B, P, C, D].

        `place_BT` are rows of each channel's `tokens`; `noise` is [B, P, |M|, K].
        """
        positions_TD = self.position_embedding[: place_BT.shape[1]]
        id_BTD, _ = self.encoders["id"](F.embedding(place_BT, tokens[0]) + positions_TD, None)
        fused_BPD = _taken(id_BTD, at_BP)
        queries = []
        for index, name in enumerate(self.modalities):
            x_BTD = F.embedding(place_BT, tokens[1 + index]) + positions_TD  # Eq. 9
            c_KD = centers[index]
            x_BTD, layers = self.encoders[_key(name)](x_BTD, c_KD)
            e_BPD = _taken(x_BTD, at_BP)
            fused_BPD = fused_BPD + self.channel_weights[1 + index] * e_BPD  # Eq. 17
            if c_KD is not None:
                of_modality = None if noise is None else noise[:, :, index]
                asked = self._prefixes(e_BPD, at_BP, place_BT.shape[1], len(c_KD), of_modality)
                e_BPD = e_BPD + center_mixture(len(c_KD), layers, asked, self.config.tau)  # Eq. 18
            queries.append(e_BPD)
        return torch.stack([fused_BPD, *queries], dim=2)

    def _prefixes(
        self, e_BPD: Tensor, at_BP: Tensor, T: int, K: int, noise_BPK: Tensor | None
    ) -> Prefixes:
        (B, P), p = at_BP.shape, self.config.dropout
        visible_BPT = torch.arange(T, device=at_BP.device) <= at_BP[..., None]
        shape, layers = (B, P * K, self.config.num_heads * T), range(self.config.num_layers)
        masks = [kept(shape, p, e_BPD) for _ in layers] if self.training and p else []
        return Prefixes(e_BPD, visible_BPT, noise_BPK, masks)

    def with_entries(self, batch: Batch) -> Batch:
        """The batch with the rows of the sparse matrices that it is read by; needs no weights."""
        device, modalities = batch.place.device, self.modality_constants()
        rows = batch.items.numpy()
        wanted = {
            "own": identity(batch.items.to(device)),
            "near": self.cooccurrence.select(rows, device),
        }
        for name, constants in zip(self.modalities, modalities, strict=True):
            if constants.graph is not None:
                wanted[f"tokens of {name}"] = constants.graph.select(rows)
                if constants.centers is not None:
                    wanted[f"centers of {name}"] = constants.centers.all()
        if batch.scored is None:
            return batch._replace(entries=wanted)
        scored = {"id": identity(batch.scored.items.to(device))}
        for name, constants in zip(self.modalities, modalities, strict=True):
            if constants.graph is not None:
                scored[name] = constants.graph.select(batch.scored.items.numpy())
        return batch._replace(entries=wanted, scored_entries=scored)

    def read_items(
        self, items: Tensor, entries: dict[str, Entries], mapped: Sequence[Tensor | None]
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """E^id, each channel's tokens of the items [n, D], and c^0 of each modality [K, D].

        Every sparse product of the step with E^id but those of its scored items is taken here,
        once. `mapped` holds a modality's mapped features [X, D] where all items are scored by them.
        """
        embedding_XD, found = read(self.item_embedding, entries)
        tokens, centers = [self._smoothed(found["own"], found["near"])], []
        for name, constants, mapped_XD in zip(
            self.modalities, self.modality_constants(), mapped, strict=True
        ):
            if constants.graph is not None:
                tokens.append(found[f"tokens of {name}"])
                centers.append(found.get(f"centers of {name}"))
            else:
                place = items.to(embedding_XD.device)
                tokens.append(constants(place) if mapped_XD is None else mapped_XD[place])
                centers.append(constants.mapped_centers())
        return embedding_XD, tokens, centers

    def read_vectors(
        self, embedding_XD: Tensor, items: Tensor, entries: dict[str, Entries]
    ) -> list[Tensor]:
        """What each channel scores the items by (Eq. 20-21), [n, D] each; `items` as in a batch.

        `embedding_XD` is as `read_items` returned it, and has no other use.
        """
        _, found = read(embedding_XD, entries)
        place, modalities = items.to(embedding_XD.device), self.modality_constants()
        named = zip(self.modalities, modalities, strict=True)
        return [found["id"], *(found[n] if n in found else m(place) for n, m in named)]

    def _smoothed(self, own: Tensor, near: Tensor) -> Tensor:
        """Ebar^id = mu N(O) E^id + E^id (Eq. 3)."""
        return own + self.config.mu_id * near

    def modality_constants(self) -> list[Modality]:
        return [cast(Modality, self.constants[_key(name)]) for name in self.modalities]


def _key(modality: str) -> str:
    """A name that no attribute of a module dictionary bears."""
    return f"modality_{modality}"


def _taken(x_BTD: Tensor, at_BP: Tensor) -> Tensor:
    return x_BTD.gather(1, at_BP[..., None].expand(-1, -1, x_BTD.shape[-1]))
