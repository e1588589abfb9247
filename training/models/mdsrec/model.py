"""MDSRec (arXiv 2412.08103): Eq. 7-9 and 17-24, for any number of modalities.

B users, T positions, P prefixes, C = 1 + |M| channels (fused, then each modality), X items, n of
them in a batch, D width, K centres.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment, MDSRecConfig
from training.data.item_tables import ItemTables
from training.data.sparse import Ints
from training.layers.dropout import kept
from training.layers.losses import item_softmax
from training.layers.sampled_softmax import sampled_softmax
from training.layers.transformer import Encoder
from training.models.base import Batch, Model
from training.models.mdsrec.centers import Prefixes, center_mixture
from training.models.mdsrec.items import Items, ItemSide, key_of


class MDSRec(Model):
    config: MDSRecConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.modalities = experiment.modalities
        # Owned here and not by a submodule: under ZeRO-3 a parameter has a size in its owner's
        # forward alone.
        self.item_embedding = nn.Parameter(torch.empty(tables.num_items, config.dim))
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.items = Items(experiment, tables)
        self.encoders = nn.ModuleDict({"id": Encoder(config, has_centers=False)})
        for name in self.modalities:
            self.encoders[key_of(name)] = Encoder(config, config.interest_centers)
        rho = {name: experiment.rho(name) for name in self.modalities}
        self.set_channels({"fused": 1.0, **rho})

    def draw(self, num_prefixes: Ints, generator: torch.Generator) -> Tensor:
        """logit(delta) of Eq. 19 -> [prefixes, |M|, K]."""
        shape = int(num_prefixes.sum()), len(self.modalities), self.config.num_centers
        return torch.rand(shape, generator=generator).logit(eps=1e-6)

    def forward(self, batch: Batch) -> Tensor:
        """Loss of each channel, summed over the batch's counted prefixes -> [C] (Eq. 23-24).

        The objective is `channel_weights @ forward(batch)` over the number of prefixes.
        """
        batch = self.with_entries(batch) if batch.entries is None else batch
        assert batch.entries is not None
        mapped = self.items.mapped() if batch.scored is None else {}
        embedding_XD, tokens, centers = self.items.read(
            self.item_embedding, batch.items, batch.entries, mapped
        )
        queries_BTCD = self.queries(tokens, centers, batch.place, None, batch.noise)
        queries_CPD = queries_BTCD.flatten(0, 1).index_select(0, batch.prefixes).transpose(0, 1)
        if batch.scored is not None:
            assert batch.scored_entries is not None
            vectors = self.items.scored_vectors(
                embedding_XD, batch.scored.items, batch.scored_entries
            )
            return sampled_softmax(queries_CPD, vectors, batch.scored)
        sources = self.items.channels(embedding_XD, mapped)
        return item_softmax(queries_CPD, batch.targets, *sources, self.config.scores_cosines)

    def with_entries(self, batch: Batch) -> Batch:
        """The batch with the rows of the sparse matrices that it is read by; needs no weights."""
        device = batch.place.device
        batch = batch._replace(entries=self.items.entries(batch.items, device))
        if batch.scored is None:
            return batch
        scored = self.items.scored_entries(batch.scored.items, device)
        return batch._replace(scored_entries=scored)

    def item_side(self) -> ItemSide:
        return self.items.side(self.item_embedding)

    def user_vectors(self, items_BT: Tensor, lengths_B: Tensor, side: ItemSide) -> Tensor:
        """The whole sequences' representations, without noise -> [B, C, D]."""
        at_B1 = lengths_B[:, None] - 1
        place_BT = torch.arange(items_BT.numel(), device=items_BT.device).view_as(items_BT)
        tokens = side.tokens(items_BT.flatten())
        return self.queries(tokens, side.centers, place_BT, at_B1, None)[:, 0]

    def queries(
        self,
        tokens: list[Tensor],
        centers: list[Tensor | None],
        place_BT: Tensor,
        at_BP: Tensor | None,
        noise: Tensor | None,
    ) -> Tensor:
        """e_s and etilde^m of the prefixes that end at positions `at_BP`, or all -> [B, P, C, D].

        `place_BT` are rows of each channel's `tokens`; `noise` is [B, P, |M|, K].
        """
        positions_TD = self.position_embedding[: place_BT.shape[1]]
        hidden_BT1 = self._hidden(place_BT, tokens[0])
        x_BTD = _placed(tokens[0], place_BT, hidden_BT1) + positions_TD  # Eq. 7
        fused_BPD, _ = self.encoders["id"](x_BTD, at_BQ=at_BP)
        queries = []
        for index, name in enumerate(self.modalities):
            x_BTD = _placed(tokens[1 + index], place_BT, hidden_BT1) + positions_TD  # Eq. 9
            c_KD = centers[index]
            e_BPD, layers = self.encoders[key_of(name)](x_BTD, c_KD, at_BQ=at_BP)
            fused_BPD = fused_BPD + self.channel_weights[1 + index] * e_BPD  # Eq. 17
            if c_KD is not None:
                of_modality = None if noise is None else noise[:, :, index]
                asked = self._prefixes(e_BPD, at_BP, place_BT, len(c_KD), of_modality)
                e_BPD = e_BPD + center_mixture(len(c_KD), layers, asked, self.config.tau)  # Eq. 18
            queries.append(e_BPD)
        queries_BPCD = torch.stack([fused_BPD, *queries], dim=2)
        if self.config.scores_cosines:
            return F.normalize(queries_BPCD, dim=-1) / self.config.temperature
        return queries_BPCD

    def _hidden(self, place_BT: Tensor, like: Tensor) -> Tensor | None:
        """Where training hides an item, in every channel."""
        p, shape = self.config.item_mask, (*place_BT.shape, 1)
        return kept(shape, p, like) == 0 if self.training and p else None

    def _prefixes(
        self,
        e_BPD: Tensor,
        at_BP: Tensor | None,
        place_BT: Tensor,
        K: int,
        noise_BPK: Tensor | None,
    ) -> Prefixes:
        T, p = place_BT.shape[1], self.config.dropout
        at_T = torch.arange(T, device=place_BT.device)
        at_BP = at_T.expand_as(place_BT) if at_BP is None else at_BP
        visible_BPT = at_T <= at_BP[..., None]
        B, P = at_BP.shape
        shape, layers = (B, P * K, self.config.num_heads * T), range(self.config.num_layers)
        masks = [kept(shape, p, e_BPD) for _ in layers] if self.training and p else []
        return Prefixes(e_BPD, visible_BPT, noise_BPK, masks)


def _placed(tokens_nD: Tensor, place_BT: Tensor, hidden_BT1: Tensor | None) -> Tensor:
    x_BTD = F.embedding(place_BT, tokens_nD)
    return x_BTD if hidden_BT1 is None else x_BTD.masked_fill(hidden_BT1, 0.0)
