"""MDSRec (arXiv 2412.08103): Eq. 7-9 and 17-24, for any number of modalities.

B users, T positions, P prefixes, C = 1 + |M| channels (fused, then each modality), X items, n of
them in a batch, D width, K centers.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.arrays import Ints
from mdsrec.config import Experiment, MDSRecConfig
from training.data.batch import Batch, SparseRows
from training.data.item_tables import ItemTables
from training.data.long_rows import LongRows
from training.data.sparse import Entries
from training.layers.dropout import dropout_mask
from training.layers.linear import ROWS
from training.layers.transformer import Encoder
from training.losses.full_softmax import full_softmax_loss
from training.losses.sampled_softmax import sampled_softmax_loss
from training.models.base import Model, OwnItemVectors
from training.models.mdsrec.centers import (
    PrefixStates,
    absorption_is_cheaper,
    prefix_interests,
)
from training.models.mdsrec.interest_block import InterestEncoder
from training.models.mdsrec.items import (
    BatchTokens,
    ItemRepresentations,
    MDSRecItemVectors,
    module_key,
)
from training.models.mdsrec.own_items import own_item_vectors
from training.models.mdsrec.side_by_side import Inputs, stacked_queries

VECTOR_PRODUCT = 512  # a matrix of fewer numbers, times a vector, may sum in another order


class Prefixes(NamedTuple):
    """The prefixes of B sequences that are encoded together."""

    items: Tensor  # int64 [n], may be in host memory
    item_index: Tensor  # int64 [B, T], the inputs as indexes into `items`
    ends: Tensor | None  # int64 [B, P], the last position of each; None: one ends at each position
    counted: Tensor  # int64, the prefixes in [B P] whose queries are read


class MDSRec(Model):
    """One Transformer over ids and one per modality, with item graphs and interest centers."""

    config: MDSRecConfig
    item_parameters = ("item_embedding",)

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.modalities = experiment.modalities
        # Owned here, not by a submodule: under ZeRO-3 only the forward of the owner can read them.
        self.item_embedding = nn.Parameter(torch.empty(tables.num_parameter_rows, config.dim))
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.items = ItemRepresentations(config, tables)
        self.encoders = nn.ModuleDict({"id": Encoder(config)})
        encoder = InterestEncoder if config.interest_centers else Encoder
        for name in self.modalities:
            self.encoders[module_key(name)] = encoder(config)
        self.set_channels(config.channel_weights(self.modalities))

    def fewest_histories(self, length: int) -> int:
        """Return enough for ROWS tokens and, of each modality, ROWS centers."""
        config = self.config
        centers = config.num_centers if config.interest_centers else ROWS
        tokens = max(ROWS, -(-VECTOR_PRODUCT // (config.dim // config.num_heads)))
        # One history by itself takes another path, too.
        return max(2, -(-ROWS // centers), -(-tokens // length))

    def draw_noise(self, num_prefixes: Ints, generator: torch.Generator) -> Tensor:
        """Draw logit(delta) of Eq. 19 -> [prefixes, |M|, K]; K = 0 without interest centers."""
        num_centers = self.config.num_centers if self.config.interest_centers else 0
        shape = int(num_prefixes.sum()), len(self.modalities), num_centers
        return torch.rand(shape, generator=generator).logit(eps=1e-6)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of each channel, summed over its prefixes -> [C] (Eq. 23-24)."""
        batch = self.with_sparse_rows(batch) if batch.entries is None else batch
        assert batch.entries is not None
        mapped = self.items.mapped_features(None) if batch.scored is None else {}
        embedding_XD, tokens, centers = self._sequence_inputs(batch, mapped)
        prefixes = Prefixes(batch.items, batch.item_index, None, batch.prefixes)
        if self._is_side_by_side(batch.item_index):
            queries_CPD = self._side_by_side(tokens, centers, batch)
        else:
            queries_BTCD = self.queries(tokens, centers, prefixes, batch.noise)
            queries_BTCD = queries_BTCD.flatten(0, 1)
            queries_CPD = queries_BTCD.index_select(0, batch.prefixes).transpose(0, 1)
        if batch.scored is not None:
            assert batch.scored_entries is not None
            vectors = self.items.scored_vectors(
                embedding_XD, batch.scored.items, batch.scored_entries
            )
            return sampled_softmax_loss(queries_CPD, vectors, batch.scored)
        sources = self.items.channels(self._scored_table(embedding_XD), mapped)
        unit, targets = self.config.scores_cosines, batch.targets
        return full_softmax_loss(queries_CPD, targets, *sources, unit, self.owners, self.excluded)

    def _is_side_by_side(self, index_BT: Tensor) -> bool:
        """Return whether the channels are encoded together: on a GPU, with whole weights.

        Under ZeRO-3 only the module that owns a parameter can read it. A subclass may encode
        otherwise. With long sequences or many heads the centers are projected, not the tokens.
        """
        config, length = self.config, index_BT.shape[1]
        return (
            index_BT.is_cuda
            and bool(self.modalities)
            and not hasattr(self.position_embedding, "ds_id")
            and (type(self).encode, type(self).queries) == (MDSRec.encode, MDSRec.queries)
            and absorption_is_cheaper(config.num_heads, length, config.dim)
        )

    def _side_by_side(
        self, tokens: list[Tensor], centers: list[Tensor | None], batch: Batch
    ) -> Tensor:
        """Return what `queries` returns of the batch's prefixes -> [C, P, D]."""
        index_BT, config = batch.item_index, self.config
        inputs = Inputs(
            tokens,
            centers,
            self.position_embedding[: index_BT.shape[1]],
            index_BT,
            self._draw_hidden(index_BT, tokens[0]),
            batch.prefixes,
            batch.noise,
        )
        encoders = [self.encoders[name] for name in ("id", *map(module_key, self.modalities))]
        stack = cast(list[Encoder], encoders)
        queries_CPD = stacked_queries(stack, inputs, self.channel_weights, config.tau)
        if not config.scores_cosines:
            return queries_CPD
        return F.normalize(queries_CPD, dim=-1) / config.temperature

    def _sequence_inputs(
        self, batch: Batch, mapped: Mapping[str, Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """Return E^id, the tokens of the batch's items per channel, and c^0 per modality."""
        assert batch.entries is not None
        rows = self.rows_of("item_embedding", batch.row_ids)
        mapped = mapped if self.owners is None else {}  # which then holds own items
        return self.items.sequence_inputs(
            rows, batch.items, batch.entries, mapped, self._owners_products
        )

    def _scored_table(self, embedding_XD: Tensor) -> Tensor:
        """Return E^id of the items that the full softmax scores on this rank, and of the halo."""
        own = self.own_items
        return embedding_XD if own is None else own.values["item_embedding"]

    @property
    def _owners_products(self) -> Mapping[str, Tensor]:
        return {} if self._rows is None else self._rows.products

    def with_sparse_rows(self, batch: Batch) -> Batch:
        device = batch.item_index.device
        entries, sums = self.items.entries(batch.items, device)
        batch = batch._replace(entries=entries, sums=sums)
        if batch.scored is None:
            return batch
        scored = self.items.scored_entries(batch.scored.items, device)
        return batch._replace(scored_entries=scored)

    def with_row_ids(self, batch: Batch) -> Batch:
        """Also let the columns of the sparse rows be indexes into these items."""
        assert batch.entries is not None
        scored = batch.scored_entries or {}
        selected = [*batch.entries.values(), *scored.values()]
        ids = torch.unique(torch.cat([entries.columns for entries in selected]))
        return batch._replace(
            row_ids=ids.long(),
            entries=_among(ids, batch.entries),
            scored_entries=_among(ids, scored),
        )

    @property
    def center_rows(self) -> dict[str, LongRows]:
        return self.items.center_rows

    def is_refreshed_before(self, step: int) -> bool:
        return bool(self.kept()) and step % self.config.center_refresh == 0

    def refresh(self, products: Mapping[str, Tensor]) -> None:
        self.items.keep_centers(products)

    def kept(self) -> dict[str, Tensor]:
        return self.items.kept_centers

    def item_vectors(self) -> MDSRecItemVectors:
        if self.own_items is not None:
            table_nD = self.own_items.values["item_embedding"]
            return self.items.own_vectors(table_nD, self.own_items.number)
        return self.items.item_vectors(self.item_embedding)

    def own_item_vectors(self, blocks: Iterable[Tensor]) -> OwnItemVectors:
        assert self.owners is not None
        rows, items = self.own_rows()
        with self.reading(rows):
            return own_item_vectors(self.items, self.item_embedding, items, self.owners, blocks)

    def encoder_inputs(self, tokens: list[Tensor], shared: list[Tensor | None]) -> BatchTokens:
        return BatchTokens(tokens, shared)

    def item_tokens(self, batch: Batch) -> BatchTokens:
        _, tokens, centers = self._sequence_inputs(batch, {})
        return BatchTokens(tokens, centers)

    def user_vectors(
        self, items_BT: Tensor, lengths_B: Tensor, item_vectors: MDSRecItemVectors | BatchTokens
    ) -> Tensor:
        items, users = items_BT.flatten(), torch.arange(len(items_BT), device=items_BT.device)
        index_BT = torch.arange(len(items), device=items.device).view_as(items_BT)
        prefixes = Prefixes(items, index_BT, lengths_B[:, None] - 1, users)
        tokens = item_vectors.tokens(items)
        return self.queries(tokens, item_vectors.centers, prefixes, None)[:, 0]

    def queries(
        self,
        tokens: list[Tensor],
        centers: list[Tensor | None],
        prefixes: Prefixes,
        noise: Tensor | None,
    ) -> Tensor:
        """Return e_s and etilde^m of the prefixes -> [B, P, C, D].

        The `tokens` of a channel have a row for each of the items. `centers` holds c^0 of each
        modality. `noise` [B, P, |M|, K] is logit(delta) of Eq. 19, and None means delta = 1/2.
        """
        index_BT, ends_BP = prefixes.item_index, prefixes.ends
        positions_TD = self.position_embedding[: index_BT.shape[1]]
        hidden_BT1 = self._draw_hidden(index_BT, tokens[0])
        x_BTD = _embed(tokens[0], index_BT, hidden_BT1) + positions_TD  # Eq. 7
        fused_BPD = self.encoders["id"](x_BTD, positions_BQ=ends_BP)
        queries = []
        for m in range(len(self.modalities)):
            x_BTD = _embed(tokens[1 + m], index_BT, hidden_BT1) + positions_TD  # Eq. 9
            noise_BPK = None if noise is None else noise[:, :, m]
            e_BPD, interests = self.encode(m, x_BTD, centers[m], prefixes, noise_BPK)
            fused_BPD = fused_BPD + self.channel_weights[1 + m] * e_BPD  # Eq. 17
            if interests is not None:
                e_BPD = e_BPD + interests  # Eq. 18
            queries.append(e_BPD)
        queries_BPCD = torch.stack([fused_BPD, *queries], dim=2)
        if self.config.scores_cosines:
            return F.normalize(queries_BPCD, dim=-1) / self.config.temperature
        return queries_BPCD

    def encode(
        self,
        m: int,
        x_BTD: Tensor,
        c_KD: Tensor | None,
        prefixes: Prefixes,
        noise_BPK: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return e^m and gamma c^L of the prefixes -> [B, P, D] each (Eq. 9 and 12-19).

        The second is None without interest centers.
        """
        encoder = self.encoders[module_key(self.modalities[m])]
        if c_KD is None:
            return encoder(x_BTD, positions_BQ=prefixes.ends), None
        e_BPD, layers = encoder(x_BTD, c_KD, prefixes.ends)
        states = self._prefix_states(e_BPD, prefixes, len(c_KD), noise_BPK)
        return e_BPD, prefix_interests(len(c_KD), layers, states, self.config.tau)

    def _draw_hidden(self, index_BT: Tensor, like: Tensor) -> Tensor | None:
        """Draw the positions whose item training hides in every channel -> bool [B, T, 1]."""
        p, shape = self.config.item_mask, (*index_BT.shape, 1)
        return dropout_mask(shape, p, like) == 0 if self.training and p else None

    def _prefix_states(
        self, e_BPD: Tensor, prefixes: Prefixes, K: int, noise_BPK: Tensor | None
    ) -> PrefixStates:
        index_BT, ends_BP = prefixes.item_index, prefixes.ends
        T, p = index_BT.shape[1], self.config.dropout
        positions_T = torch.arange(T, device=index_BT.device)
        ends_BP = positions_T.expand_as(index_BT) if ends_BP is None else ends_BP
        visible_BPT = positions_T <= ends_BP[..., None]
        B, P = ends_BP.shape
        shape, layers = (B, P * K, self.config.num_heads * T), range(self.config.num_layers)
        masks = [dropout_mask(shape, p, e_BPD) for _ in layers] if self.training and p else []
        return PrefixStates(e_BPD, visible_BPT, noise_BPK, masks)


def _among(ids: Tensor, rows: SparseRows) -> SparseRows:
    """Return the rows with columns as indexes into `ids`, which ascend."""
    return {name: each.among(ids) for name, each in rows.items() if isinstance(each, Entries)}


def _embed(tokens_nD: Tensor, index_BT: Tensor, hidden_BT1: Tensor | None) -> Tensor:
    """Look up the token of each position -> [B, T, D]. A hidden one is zero."""
    x_BTD = F.embedding(index_BT, tokens_nD)
    return x_BTD if hidden_BT1 is None else x_BTD.masked_fill(hidden_BT1, 0.0)
