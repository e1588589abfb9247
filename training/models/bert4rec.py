"""BERT4Rec: Sun et al., Sequential Recommendation with Bidirectional Encoder Representations from
Transformer, CIKM 2019 (arXiv 1904.06690).

Training masks a share of the events of a sequence and predicts each masked event from all others.
Ranking appends a masked event to the sequence. h = L bidirectional blocks over
dropout(LayerNorm(E + P)) (Eq. 1-6), and score = LayerNorm(GELU(W h_t + b)) . E_i + b_i (Eq. 7).

Departs from the original: an event is masked only in the window where it is a target, so the first
event of a user is never masked, as no other model predicts it either; masks are drawn for every
step instead of ten times in advance; in `last_share` of the sequences only the last event is
masked, as in ranking (RecBole's ft_ratio).

A step learns only from the masked targets, so the model needs more epochs than a causal one. Petrov
and Macdonald (RecSys 2022, arXiv 2207.07483) found that published results were undertrained.

B users, T positions, Q of them computed, P prefixes, X items, n of them, D width.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.config.models import BERT4RecConfig
from training.data.batch import Batch, MaskedEvents
from training.data.item_tables import ItemTables
from training.layers.transformer import NORM_EPS, Encoder
from training.models.next_item import NextItem, NextItemVectors


class BERT4Rec(NextItem):
    config: BERT4RecConfig
    item_parameters = ("item_embedding", "item_bias")

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        config = self.config
        self.item_bias = None
        if not config.scores_cosines:
            self.item_bias = nn.Parameter(torch.empty(tables.num_parameter_rows))
        self.mask_embedding = nn.Parameter(torch.empty(1, config.dim))
        self.position_embedding = nn.Parameter(torch.empty(config.max_length + 1, config.dim))
        self.encoder = Encoder(config)
        self.output = nn.Sequential(
            nn.Linear(config.dim, config.dim),
            nn.GELU(),
            nn.LayerNorm(config.dim, eps=NORM_EPS),
        )

    def vectors(self, items: Tensor | None) -> Tensor:
        """Return [E_i; b_i], so that a query that ends in 1 scores by Eq. 7 -> [n, D + 1].

        Where scores are cosines there is no b_i.
        """
        embedded = self.embed(items)
        if self.item_bias is None:
            return embedded
        bias = self.rows_of("item_bias", items)
        return torch.cat([embedded, bias[:, None]], dim=1)

    def tokens(self, items: Tensor | None) -> tuple[Tensor, ...]:
        return (self.embed(items),)

    def draw_noise(self, num_prefixes: Ints, generator: torch.Generator) -> Tensor:
        """Draw the masked targets of a step -> loss weights [prefixes, 1], 0 for the unmasked ones.

        All other weights are equal and sum to the number of prefixes, so the objective of the step
        is the mean over the masked targets. Every sample has at least one.
        """
        config, total = self.config, int(num_prefixes.sum())
        masked = torch.rand(total, generator=generator).numpy() < config.mask_share
        only_last = torch.rand(len(num_prefixes), generator=generator).numpy() < config.last_share
        sample = np.repeat(np.arange(len(num_prefixes)), num_prefixes)
        none_masked = np.bincount(sample[masked], minlength=len(num_prefixes)) == 0
        masked[only_last[sample]] = False
        masked[(np.cumsum(num_prefixes) - 1)[only_last | none_masked]] = True
        weights = masked * np.float32(total / max(masked.sum(), 1))
        return torch.from_numpy(weights.astype(np.float32))[:, None]

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch of the masked targets only, with the events of each row.

        The events include the targets.
        """
        weights_P = batch.noise.flatten(0, 1)[batch.prefixes, 0]
        chosen = weights_P > 0
        events, lengths_B, (row_P, position_P) = _events(batch)
        row, position = row_P[chosen], position_P[chosen]
        hidden = torch.zeros_like(events, dtype=torch.bool)
        hidden[row, position] = True
        items, index_BT = torch.unique(events, return_inverse=True)
        scored = batch.scored
        # The mean of equal numbers; in float64 it is exact, so all ranks have the same.
        weight = weights_P.double().sum() / chosen.sum().clamp(min=1)
        return batch._replace(
            items=items,
            item_index=index_BT,
            prefixes=row * events.shape[1] + position,
            targets=batch.targets[chosen],
            scored=None if scored is None else scored._replace(targets=scored.targets[chosen]),
            masked=MaskedEvents(hidden, lengths_B, weight),
        )

    def forward(self, batch: Batch) -> Tensor:
        batch = self.prepare(batch) if batch.masked is None else batch
        assert batch.masked is not None
        hidden, lengths_B, weight = batch.masked
        tokens_nD = self.embed(batch.items.to(hidden.device))
        queries_BTD = self._encode(tokens_nD, batch.item_index, hidden, lengths_B)
        queries = queries_BTD.flatten(0, 1).index_select(0, batch.prefixes)
        return weight * self.loss(queries, batch.targets, batch.scored)

    def user_vectors(
        self, items_BT: Tensor, lengths_B: Tensor, item_vectors: NextItemVectors
    ) -> Tensor:
        events = F.pad(items_BT, (0, 1))
        next_B1 = lengths_B[:, None]
        masked = torch.arange(events.shape[1], device=events.device) == next_B1
        [tokens_XD] = item_vectors.tokens
        return self.scale(self._encode(tokens_XD, events, masked, lengths_B + 1, next_B1))

    def _encode(
        self,
        tokens_nD: Tensor,
        index_BT: Tensor,
        masked_BT: Tensor,
        lengths_B: Tensor,
        positions_BQ: Tensor | None = None,
    ) -> Tensor:
        """Return the query at each of `positions_BQ` (None: all) -> [B, Q, D + 1], D for cosines.

        It attends to the first `lengths_B` events, where masked ones show only the mask embedding.
        """
        all_T = torch.arange(index_BT.shape[1], device=index_BT.device)
        visible = (all_T < lengths_B[:, None])[:, None, None]
        x_BTD = F.embedding(index_BT, tokens_nD)
        x_BTD = torch.where(masked_BT[..., None], self.mask_embedding, x_BTD)
        x_BTD = x_BTD + self.position_embedding[: len(all_T)]
        x_BQD = self.encoder(x_BTD, visible, positions_BQ)
        queries: Tensor = self.output(x_BQD)
        return queries if self.item_bias is None else F.pad(queries, (0, 1), value=1.0)


def _events(batch: Batch) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return the events of each row, targets included, and where the targets are.

    Events [B, T + 1] and their number [B]; row and position of each target [P].
    """
    B, T = batch.item_index.shape
    inputs = batch.items.to(batch.item_index.device)[batch.item_index]
    events = torch.cat([inputs, inputs[:, :1]], dim=1)
    row, position = batch.prefixes // T, batch.prefixes % T + 1
    events[row, position] = batch.targets
    lengths = torch.ones(B, dtype=torch.int64, device=row.device)
    return events, lengths.scatter_reduce(0, row, position + 1, "amax"), (row, position)
