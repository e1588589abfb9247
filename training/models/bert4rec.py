"""BERT4Rec: Sun et al., Sequential Recommendation with Bidirectional Encoder Representations from
Transformer, CIKM 2019 (arXiv 1904.06690).

Training hides a share of a sequence's events and predicts each from all the others; ranking hides
what comes after the last one. h = L blocks that see both ways of dropout(LayerNorm(E + P)) (Eq.
1-6), and score = LayerNorm(GELU(W h_t + b)) . E_i + b_i (Eq. 7).

Departs from the original: an event is hidden in the window that holds it as a target, so the first
event of a user never is, as in every other model; what is hidden is drawn for each step, not ten
times beforehand; in a `last_share` of the sequences the last event alone is hidden, which is what
ranking asks (RecBole's ft_ratio). It learns from a part of the targets a step, so it needs more
epochs than a causal model: Petrov and Macdonald (RecSys 2022, arXiv 2207.07483) found published
results short of them.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.models import BERT4RecConfig
from training.data.item_tables import ItemTables
from training.data.sparse import Ints
from training.layers.transformer import NORM_EPS, Encoder
from training.models.base import Batch
from training.models.next_item import NextItem, NextItemVectors


class BERT4Rec(NextItem):
    config: BERT4RecConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.item_bias = None
        if not config.scores_cosines:
            self.item_bias = nn.Parameter(torch.empty(tables.num_items))
        self.mask_embedding = nn.Parameter(torch.empty(1, config.dim))
        self.position_embedding = nn.Parameter(torch.empty(config.max_length + 1, config.dim))
        self.encoder = Encoder(config)
        self.output = nn.Sequential(
            nn.Linear(config.dim, config.dim),
            nn.GELU(),
            nn.LayerNorm(config.dim, eps=NORM_EPS),
        )

    def vectors(self, items: Tensor | None) -> Tensor:
        """E_i and b_i side by side, so that a query that ends in 1 scores by Eq. 7; without b_i
        where cosines score.
        """
        [found] = self.tokens(items)
        if self.item_bias is None:
            return found
        bias = self.item_bias if items is None else self.item_bias[items]
        return torch.cat([found, bias[:, None]], dim=1)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        return (self.embedded(items),)

    def draw_noise(self, num_prefixes: Ints, generator: torch.Generator) -> Tensor:
        """0 where a target is not hidden, else the weight of its loss -> [prefixes, 1].

        The weights are equal and sum to the step's prefixes, so its objective is the mean over what
        is hidden.
        """
        config, total = self.config, int(num_prefixes.sum())
        hidden = torch.rand(total, generator=generator).numpy() < config.mask_share
        last_alone = torch.rand(len(num_prefixes), generator=generator).numpy() < config.last_share
        sample = np.repeat(np.arange(len(num_prefixes)), num_prefixes)
        none_hidden = np.bincount(sample[hidden], minlength=len(num_prefixes)) == 0
        hidden[last_alone[sample]] = False
        hidden[(np.cumsum(num_prefixes) - 1)[last_alone | none_hidden]] = True
        weights = hidden * np.float32(total / max(hidden.sum(), 1))
        return torch.from_numpy(weights.astype(np.float32))[:, None]

    def forward(self, batch: Batch) -> Tensor:
        weights_P = batch.noise.flatten(0, 1)[batch.prefixes, 0]
        chosen = weights_P > 0
        events, lengths_B, cells = _events(batch)
        row, at = (index[chosen] for index in cells)
        hidden = torch.zeros_like(events, dtype=torch.bool)
        hidden[row, at] = True
        queries = self._encoded(self.item_embedding, events, hidden, lengths_B)[row, at]
        scored = batch.scored
        scored = None if scored is None else scored._replace(targets=scored.targets[chosen])
        weight = weights_P.sum() / chosen.sum().clamp(min=1)
        return weight * self.loss(queries, batch.targets[chosen], scored)

    def user_vectors(
        self, items_BT: Tensor, lengths_B: Tensor, item_vectors: NextItemVectors
    ) -> Tensor:
        events = F.pad(items_BT, (0, 1))
        next_B1 = lengths_B[:, None]
        hidden = torch.arange(events.shape[1], device=events.device) == next_B1
        [tokens_XD] = item_vectors.tokens
        return self.scaled(self._encoded(tokens_XD, events, hidden, lengths_B + 1, next_B1))

    def _encoded(
        self,
        tokens_XD: Tensor,
        events_BT: Tensor,
        hidden_BT: Tensor,
        lengths_B: Tensor,
        positions_BQ: Tensor | None = None,
    ) -> Tensor:
        """What each position (none: all) predicts [B, Q, D or D + 1], from the first `lengths`
        events but those that are hidden.
        """
        at_T = torch.arange(events_BT.shape[1], device=events_BT.device)
        visible = (at_T < lengths_B[:, None])[:, None, None]
        x_BTD = F.embedding(events_BT, tokens_XD)
        x_BTD = torch.where(hidden_BT[..., None], self.mask_embedding, x_BTD)
        x_BTD = x_BTD + self.position_embedding[: len(at_T)]
        x_BQD = self.encoder(x_BTD, visible, positions_BQ)
        predicted: Tensor = self.output(x_BQD)
        return predicted if self.item_bias is None else F.pad(predicted, (0, 1), value=1.0)


def _events(batch: Batch) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Inputs and what follows the last of them: events [B, T + 1], how many there are [B], and the
    row and column of each target [P].
    """
    B, T = batch.place.shape
    inputs = batch.items.to(batch.place.device)[batch.place]
    events = torch.cat([inputs, inputs[:, :1]], dim=1)
    row, at = batch.prefixes // T, batch.prefixes % T + 1
    events[row, at] = batch.targets
    lengths = torch.ones(B, dtype=torch.int64, device=row.device)
    return events, lengths.scatter_reduce(0, row, at + 1, "amax"), (row, at)
