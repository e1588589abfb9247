"""Models of one channel that predict the item after every prefix in one causal pass.

B users, T positions, Q of them computed, P prefixes, X items, n of them, D width.

Such a model defines the vectors that items are scored by, the tokens that sequences are made of,
and how a sequence becomes queries. The rest, from the loss to ranking, is here.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment, TransformerConfig
from training.data.batch import Batch
from training.data.item_tables import ItemTables
from training.data.negatives import ScoredItems
from training.layers.transformer import Encoder, gather_positions
from training.losses.full_softmax import Channel, full_softmax_loss
from training.losses.sampled_softmax import sampled_softmax_loss
from training.models.base import Model, OwnItemVectors


class NextItemVectors(NamedTuple):
    """`ItemVectors` of a model of one channel."""

    vectors: Tensor  # [1, X, D]
    tokens: tuple[Tensor, ...]  # [X, ...] each, as `NextItem.tokens` returns them


class NextItem(Model):
    """A model whose item scores are inner products of one query per prefix with item vectors."""

    item_parameters: tuple[str, ...] = ("item_embedding",)

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        self.unit = self.config.scores_cosines  # whether item vectors are scaled to length 1
        self.item_embedding = nn.Parameter(
            torch.empty(tables.num_parameter_rows, self.config.dim)
        )  # E
        self.set_channels(self.config.channel_weights(experiment.modalities))

    def embed(self, items: Tensor | None) -> Tensor:
        """Return the rows of E of the items (None: all) -> [n, D]."""
        return self.rows_of("item_embedding", items)

    def vectors(self, items: Tensor | None) -> Tensor:
        """Return the vectors that score the items (None: all) -> [n, D]; E by default."""
        return self.embed(items)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        """Return the tokens of the items, one or more tensors [n, ...]; `vectors` by default."""
        return (self.vectors(items),)

    def queries(self, tokens: tuple[Tensor, ...], index_BT: Tensor) -> Tensor:
        """Return the query of every prefix [B, T, D], which no later item may change.

        The item at a position is row `index_BT` of each of `tokens`.
        """
        raise NotImplementedError

    def queries_at(
        self, tokens: tuple[Tensor, ...], index_BT: Tensor, positions_BQ: Tensor
    ) -> Tensor:
        """Return the queries of the prefixes that end at `positions_BQ` -> [B, Q, D].

        Override it where the other positions can be left out of the computation.
        """
        return gather_positions(self.queries(tokens, index_BT), positions_BQ)

    def forward(self, batch: Batch) -> Tensor:
        tokens = self.tokens(batch.items.to(batch.item_index.device))
        queries_BTD = self.queries(tokens, batch.item_index)
        queries_PD = queries_BTD.flatten(0, 1).index_select(0, batch.prefixes)
        return self.loss(queries_PD, batch.targets, batch.scored)

    def loss(self, queries_PD: Tensor, targets_P: Tensor, scored: ScoredItems | None) -> Tensor:
        """Return the cross-entropy, summed over the prefixes -> [1]."""
        queries_CPD = self.scale(queries_PD)[None]
        if scored is None:
            tables, channels = [self.vectors(None)], [Channel(0, None)]
            return full_softmax_loss(
                queries_CPD, targets_P, channels, tables, self.unit, self.owners, self.excluded
            )
        vectors = self.vectors(scored.items.to(queries_PD.device))
        vectors = F.normalize(vectors, dim=-1) if self.unit else vectors
        return sampled_softmax_loss(queries_CPD, [vectors], scored)

    @torch.no_grad()
    def item_vectors(self) -> NextItemVectors:
        vectors = self.vectors(None)
        unit = F.normalize(vectors, dim=-1) if self.unit else vectors
        tokens = self.tokens(None) if self.own_items is None else ()
        return NextItemVectors(unit[None], tokens)

    def item_tokens(self, batch: Batch) -> NextItemVectors:
        return NextItemVectors(self.item_embedding[:0, None], self.tokens(batch.items))

    @torch.no_grad()
    def own_item_vectors(self, blocks: Iterable[Tensor]) -> OwnItemVectors:
        assert self.owners is not None
        num_own, (rows, items) = self.owners.shards.num_own, self.own_rows()
        with self.reading(rows):
            vectors, tokens = self.vectors(items), self.tokens(items)
        unit = F.normalize(vectors, dim=-1) if self.unit else vectors
        return OwnItemVectors(
            unit[None, :num_own].detach(), lambda rows: [t[rows] for t in tokens], []
        )

    def encoder_inputs(self, tokens: list[Tensor], shared: list[Tensor | None]) -> NextItemVectors:
        return NextItemVectors(self.item_embedding[:0, None], tuple(tokens))

    def user_vectors(
        self, items_BT: Tensor, lengths_B: Tensor, item_vectors: NextItemVectors
    ) -> Tensor:
        return self.scale(self.queries_at(item_vectors.tokens, items_BT, lengths_B[:, None] - 1))

    def scale(self, queries: Tensor) -> Tensor:
        """Scale the queries so that inner products with the item vectors are the scores."""
        if not self.config.scores_cosines:
            return queries
        return F.normalize(queries, dim=-1) / self.config.temperature


class CausalTransformer(NextItem):
    """A model that encodes token + P of every position by causal Transformer blocks.

    The last block can compute only the positions that are needed. A subclass sets `encoder` after
    the modules that come before it, as weights are drawn in the order of registration.
    """

    config: TransformerConfig
    encoder: Encoder

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.dim))  # P

    def with_positions(self, tokens_nD: Tensor, index_BT: Tensor) -> Tensor:
        """Return token + P of every position -> [B, T, D]."""
        return F.embedding(index_BT, tokens_nD) + self.position_embedding[: index_BT.shape[1]]

    def encode(
        self, tokens: tuple[Tensor, ...], index_BT: Tensor, positions_BQ: Tensor | None
    ) -> Tensor:
        """Return the queries of the prefixes that end at `positions_BQ` -> [B, Q, D].

        None means all positions.
        """
        x_BTD = self.with_positions(tokens[0], index_BT)
        queries_BQD: Tensor = self.encoder(x_BTD, positions_BQ=positions_BQ)
        return queries_BQD

    def queries(self, tokens: tuple[Tensor, ...], index_BT: Tensor) -> Tensor:
        return self.encode(tokens, index_BT, None)

    def queries_at(
        self, tokens: tuple[Tensor, ...], index_BT: Tensor, positions_BQ: Tensor
    ) -> Tensor:
        return self.encode(tokens, index_BT, positions_BQ)
