"""Models of one channel that predict the item after every prefix in one causal pass.

B users, T positions, P prefixes, X items, n of them, D width.

Such a model says what items are scored by, what sequences are made of, and how a sequence becomes
queries; the rest, from the loss to ranking, is here.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mdsrec.config import Experiment
from training.data.item_tables import ItemTables
from training.data.negatives import Scored
from training.layers.losses import Channel, item_softmax
from training.layers.sampled_softmax import sampled_softmax
from training.layers.transformer import taken
from training.models.base import Batch, Model


class Side(NamedTuple):
    vectors: Tensor  # [1, X, D]
    tokens: tuple[Tensor, ...]  # [X, ...] each, what sequences are made of


class NextItem(Model):
    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        self.unit = self.config.scores_cosines  # whether items score by their vectors at length 1
        self.set_channels({"fused": 1.0})

    def vectors(self, items: Tensor | None) -> Tensor:
        """What the items (none: all) are scored by -> [n, D]."""
        raise NotImplementedError

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        """What the items are in a sequence -> tensors of the model's own, [n, ...] each."""
        return (self.vectors(items),)

    def queries(self, tokens: tuple[Tensor, ...], place_BT: Tensor) -> Tensor:
        """Of every prefix [B, T, D], blind to what comes after it; `place` are rows of `tokens`."""
        raise NotImplementedError

    def queries_at(self, tokens: tuple[Tensor, ...], place_BT: Tensor, at_BQ: Tensor) -> Tensor:
        """Of the prefixes that end at positions `at` [B, Q, D]; for a model that can spare some of
        the others' work.
        """
        return taken(self.queries(tokens, place_BT), at_BQ)

    def forward(self, batch: Batch) -> Tensor:
        tokens = self.tokens(batch.items.to(batch.place.device))
        queries_BTD = self.queries(tokens, batch.place)
        queries_PD = queries_BTD.flatten(0, 1).index_select(0, batch.prefixes)
        return self.loss(queries_PD, batch.targets, batch.scored)

    def loss(self, queries_PD: Tensor, targets_P: Tensor, scored: Scored | None) -> Tensor:
        """Cross-entropy, summed over the prefixes -> [1]."""
        queries_CPD = self.scaled(queries_PD)[None]
        if scored is None:
            tables = [self.vectors(None)]
            return item_softmax(queries_CPD, targets_P, [Channel(0, None)], tables, self.unit)
        vectors = self.vectors(scored.items.to(queries_PD.device))
        vectors = F.normalize(vectors, dim=-1) if self.unit else vectors
        return sampled_softmax(queries_CPD, [vectors], scored)

    @torch.no_grad()
    def item_side(self) -> Side:
        vectors = self.vectors(None)
        unit = F.normalize(vectors, dim=-1) if self.unit else vectors
        return Side(unit[None], self.tokens(None))

    def user_vectors(self, items_BT: Tensor, lengths_B: Tensor, side: Side) -> Tensor:
        return self.scaled(self.queries_at(side.tokens, items_BT, lengths_B[:, None] - 1))

    def scaled(self, queries: Tensor) -> Tensor:
        """The queries, so that their inner products with `Side.vectors` are the scores."""
        if not self.config.scores_cosines:
            return queries
        return F.normalize(queries, dim=-1) / self.config.temperature


class Encoded(NextItem):
    """A model whose last layer can be made at some positions alone."""

    def encoded(self, tokens: tuple[Tensor, ...], place_BT: Tensor, at_BQ: Tensor | None) -> Tensor:
        """As `queries_at` [B, Q, D]; with none, as `queries`."""
        raise NotImplementedError

    def queries(self, tokens: tuple[Tensor, ...], place_BT: Tensor) -> Tensor:
        return self.encoded(tokens, place_BT, None)

    def queries_at(self, tokens: tuple[Tensor, ...], place_BT: Tensor, at_BQ: Tensor) -> Tensor:
        return self.encoded(tokens, place_BT, at_BQ)
