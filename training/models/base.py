"""What training, validation, ranking and export ask of a model; they know none by its name.

A user is one vector a channel, an item too, and a channel's score is their inner product. So the
softmax over items, exact ranking and export are the same for every model.

B users, T positions, P prefixes, C channels, X items, n of them in a batch, D width.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mdsrec.config import Experiment, ModelConfig
from training.data.item_tables import ItemTables
from training.data.negatives import Sampler, Scored, sampler_of
from training.data.sparse import Entries, Ints

INIT_STD = 0.02


class Batch(NamedTuple):
    """A rank's part of a global step. Sequences are padded at their end."""

    items: Tensor  # int64 [n], the distinct items, in the host's memory
    place: Tensor  # int64 [B, T], the inputs as places in `items`
    prefixes: Tensor  # int64 [P], places in [B T] of the inputs whose prefix counts
    targets: Tensor  # int64 [P], the event after each prefix
    noise: Tensor  # [B, T, ...], what the model draws for each prefix
    scored: Scored | None = None  # what the sampled loss scores; None: every item
    entries: dict[str, Entries] | None = None  # the rows that `items` are read by; none: not yet
    scored_entries: dict[str, Entries] | None = None  # those of the scored items


class ItemVectors(Protocol):
    """Item vectors for ranking, the same for every user. A model adds what else its users need."""

    @property
    def vectors(self) -> Tensor: ...  # [C, X, D], what each channel scores against


class Model(nn.Module):
    """The interface. A parameter that is no submodule's is used in `forward` alone (ZeRO-3)."""

    channels: tuple[str, ...]
    channel_weights: Tensor  # [C], of each channel in the whole score and in the objective

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__()
        self.config: ModelConfig = experiment.model
        self.sampler: Sampler | None = sampler_of(experiment.train, tables)

    def set_channels(self, weights: dict[str, float]) -> None:
        self.channels = tuple(weights)
        weights_C = torch.tensor(list(weights.values()))
        self.register_buffer("channel_weights", weights_C, persistent=False)

    def initialize(self, seed: int) -> None:
        """normal(0, .02) for every matrix, zero biases, from `seed` alone."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, INIT_STD, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def draw_noise(self, num_prefixes: Ints, generator: torch.Generator) -> Tensor:
        """What is random of a global step, whoever computes it -> [prefixes, ...], in their order.

        `num_prefixes` are those of each of its samples.
        """
        return torch.empty(int(num_prefixes.sum()), 0)

    def with_sparse_rows(self, batch: Batch) -> Batch:
        """The batch with what can be made before the weights are known."""
        return batch

    def forward(self, batch: Batch) -> Tensor:
        """Loss of each channel, summed over the batch's counted prefixes -> [C].

        The objective is `channel_weights @ forward(batch)` over the step's number of prefixes.
        """
        raise NotImplementedError

    def item_vectors(self) -> Any:
        """Return the model's `ItemVectors`, without gradient."""
        raise NotImplementedError

    def user_vectors(self, items_BT: Tensor, lengths_B: Tensor, item_vectors: Any) -> Tensor:
        """The whole sequences' representations, nothing drawn -> [B, C, D]."""
        raise NotImplementedError
