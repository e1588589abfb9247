"""Model: the interface that training, validation, ranking and export use.

A model gives one vector per channel for a user and for an item. Their inner product is the score of
the channel. So the softmax over items, exact ranking and export are the same for every model, and
none of them refers to a model by name.

B users, T positions, P prefixes, C channels, X items, n of them in a batch, D width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.config.experiment import RESERVED_CHANNELS
from mdsrec.config.model_base import NetworkConfig
from mdsrec.config.section import listed
from mdsrec.errors import InputError
from training.data.batch import Batch, ItemRows, OwnItems
from training.data.item_tables import ItemTables
from training.data.long_rows import LongRows
from training.data.negatives import Sampler, build_sampler
from training.layers.item_constants import constants_of
from training.layers.linear import ROWS
from training.models.initial_rows import draw_rows
from training.sharding.owners import Owners

INIT_STD = 0.02


class ItemVectors(Protocol):
    """Item vectors for ranking. A model adds the fields that its `user_vectors` needs."""

    @property
    def vectors(self) -> Tensor: ...  # [C, X, D], what each channel scores against


class OwnItemVectors(NamedTuple):
    """The item side of a model for the items that this process owns, for ranking."""

    vectors: Tensor  # [C, n, D], as in `ItemVectors`
    tokens: Callable[[Tensor], list[Tensor]]  # of some of the n, which sequences are made of
    shared: list[Tensor | None]  # tensors that every sequence reads


class HeldItems(NamedTuple):
    """The items whose rows a model holds, and how many items there are."""

    items: Ints
    num_items: int


class Model(nn.Module):
    """Base class of all models.

    Under ZeRO-3 a parameter has its full size only while `forward` of the module that owns it runs.
    So parameters of a submodule are used only by calling that submodule.
    """

    item_parameters: tuple[str, ...] = ()  # names of the parameters with a row for each item
    owners: Owners | None = None  # where ranks own items; set before `initialize`
    held: HeldItems | None = None  # of a model that only shows its initial weights; set before too
    reads_rows = False  # whether a step reads rows of `item_parameters`, not all of them
    channels: tuple[str, ...]
    channel_weights: Tensor  # [C], weights of the channels in the whole score and in the objective
    excluded: Tensor | None  # bool [X] or own ones, items that leave the full softmax

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__()
        self.config: NetworkConfig = experiment.network
        self.sampler: Sampler | None = build_sampler(experiment.train, tables)
        excluded = tables.untrained if experiment.train.excludes_untrained else None
        self.register_buffer("excluded", excluded, persistent=False)
        self._rows: ItemRows | None = None

    def set_channels(self, weights: dict[str, float]) -> None:
        """Set the names of the channels and their weights.

        InputError if a name is that of a channel or a sum of channels beside the model's.
        """
        if reserved := [name for name in weights if name in RESERVED_CHANNELS]:
            raise InputError(
                f"the model {self.config.name} has a channel {reserved[0]!r}: the names "
                f"{listed(RESERVED_CHANNELS)} are reserved: rename it"
            )
        self.channels = tuple(weights)
        weights_C = torch.tensor(list(weights.values()))
        self.register_buffer("channel_weights", weights_C, persistent=False)

    @property
    def weight_of_channel(self) -> dict[str, float]:
        return dict(zip(self.channels, self.channel_weights.tolist(), strict=True))

    def initialize(self, seed: int) -> None:
        """Draw every matrix from normal(0, 0.02) and set biases to zero. Depends only on `seed`.

        Rows of items are drawn in blocks, so that a rank draws those that it owns.
        """
        generator = torch.Generator().manual_seed(seed)
        for number, (name, parameter) in enumerate(self.named_parameters()):
            if parameter.dim() > 1 and name in self.item_parameters:
                items, num_items = self._held_items(len(parameter))
                draw_rows(parameter, items, num_items, INIT_STD, generator, (seed, number))
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, INIT_STD, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def _held_items(self, num_rows: int) -> HeldItems:
        if self.held is not None:
            return self.held
        if self.owners is not None:
            return HeldItems(self.owners.items, self.owners.shards.num_items)
        return HeldItems(np.arange(num_rows), num_rows)

    def detach_item_parameters(self) -> dict[str, Tensor]:
        """Turn the parameters with a row for each item into buffers, and return them by name.

        From then on a step reads their rows from `reading` and gives only those a gradient.
        """
        found = {name: getattr(self, name) for name in self.item_parameters}
        detached = {name: p.data for name, p in found.items() if p is not None}
        for name, weights in detached.items():
            delattr(self, name)
            self.register_buffer(name, weights, persistent=False)
        self.reads_rows = True
        return detached

    @contextmanager
    def reading(self, rows: ItemRows | None) -> Iterator[None]:
        """Read these rows in `rows_of`; None means the whole parameters."""
        reads_constants = self.owners is not None
        constants = constants_of(self).values() if reads_constants else ()
        self._rows = rows
        for of_items in constants:
            of_items.read = rows
        try:
            yield
        finally:
            self._rows = None
            for of_items in constants:
                of_items.read = None

    def rows_of(self, name: str, items: Tensor | None) -> Tensor:
        """Return the items' rows of one of `item_parameters` -> [n, ...].

        None means all items, or the own ones where ranks own items.
        """
        if self._rows is not None:
            if items is not None:
                return self._rows.at(name, items)
            assert self._rows.own is not None, "a step that reads rows does not read all of them"
            num_own, rows = self._rows.own.number, self._rows.own.values[name]
            return rows if len(rows) == num_own else rows[:num_own]
        parameter: Tensor = getattr(self, name)
        if items is None:
            return parameter
        return F.embedding(items, parameter) if parameter.dim() == 2 else parameter[items]

    def fewest_histories(self, length: int) -> int:
        """Return how many histories of so many events `user_vectors` needs at a time.

        Then all matrix products have ROWS rows, and a history has the same bits in every batch.
        """
        return ROWS

    def draw_noise(self, num_prefixes: Ints, generator: torch.Generator) -> Tensor:
        """Draw the random numbers of every prefix of a global step -> [prefixes, ...], in order.

        Every rank draws all of them, so the noise of a prefix does not depend on the rank that
        computes it. `num_prefixes` holds the number of prefixes of each sample of the step.
        """
        return torch.empty(int(num_prefixes.sum()), 0)

    def with_sparse_rows(self, batch: Batch) -> Batch:
        """Return the batch with the sparse rows that the model reads. Needs no weights.

        So a background thread can call it for the next step.
        """
        return batch

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch in the form that `forward` reads. Needs no weights.

        The batch is in host memory, so what depends on its numbers is done here, where a GPU need
        not be waited for.
        """
        return self.with_sparse_rows(batch)

    @property
    def own_items(self) -> OwnItems | None:
        """Return the items that are read as all on this rank; None where it holds all items."""
        return None if self._rows is None else self._rows.own

    def with_row_ids(self, batch: Batch) -> Batch:
        """Return the batch with the items whose rows of `item_parameters` it reads."""
        if batch.scored is None:
            return batch._replace(row_ids=batch.items)
        return batch._replace(row_ids=torch.unique(torch.cat([batch.items, batch.scored.items])))

    @property
    def item_constants(self) -> dict[str, Tensor]:
        """Return the constant rows of items, such as feature vectors, by name."""
        return {name: constants.rows for name, constants in constants_of(self).items()}

    @property
    def center_rows(self) -> dict[str, LongRows]:
        """Return the matrices whose products with the item embedding a step reads, by product."""
        return {}

    def is_refreshed_before(self, step: int) -> bool:
        """Return whether `refresh` is called before this step of an epoch, counted from 0."""
        return False

    def refresh(self, products: Mapping[str, Tensor]) -> None:
        """Keep the products of `center_rows` with the item embedding for several steps."""

    def kept(self) -> dict[str, Tensor]:
        """Return the tensors that `refresh` sets in place; a checkpoint holds them."""
        return {}

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of each channel, summed over the prefixes of the batch -> [C].

        The objective is `channel_weights @ forward(batch)` over the number of prefixes of the step.
        """
        raise NotImplementedError

    def item_vectors(self) -> Any:
        """Return the `ItemVectors` of the model, without gradient."""
        raise NotImplementedError

    def own_rows(self) -> tuple[ItemRows, Tensor | None]:
        """Return the rows of the items that this process owns, for `reading`, and these items.

        None means all that are read. Fewer than ROWS are repeated, because a product of fewer rows
        may sum in another order than that of all items. Without any there is a row of zeros.
        """
        assert self.owners is not None
        shards, device = self.owners.shards, self.channel_weights.device
        items = torch.arange(shards.first, shards.last, device=device)
        parameters = {name: getattr(self, name) for name in self.item_parameters}
        rows_of = {name: own for name, own in parameters.items() if own is not None}
        fewest = min(ROWS, shards.num_items)
        if len(items) >= fewest:
            return ItemRows(items[:0], {}, own=OwnItems(len(items), rows_of)), None
        rows_of |= self.item_constants
        if not len(items):
            items = items.new_zeros(1)
            rows_of = {name: rows.new_zeros(1, *rows.shape[1:]) for name, rows in rows_of.items()}
        repeated = torch.arange(fewest, device=device).clamp(max=len(items) - 1)
        return ItemRows(items, rows_of), items[repeated]

    def own_item_vectors(self, blocks: Iterable[Tensor]) -> OwnItemVectors:
        """Return the item side of the items that this process owns. Collective.

        All values have the bits that they have where one process holds all items. `blocks` are the
        rows of the item embedding, read as they are needed.
        """
        raise NotImplementedError

    def encoder_inputs(self, tokens: list[Tensor], shared: list[Tensor | None]) -> Any:
        """Return the input of `user_vectors` from tokens of some items, which number the items.

        They come from `OwnItemVectors`, as does `shared`.
        """
        raise NotImplementedError

    def item_tokens(self, batch: Batch) -> Any:
        """Return what `user_vectors` needs of the batch's items, where ranks own items.

        Items are then numbered as in `batch.items`.
        """
        raise NotImplementedError

    def user_vectors(self, items_BT: Tensor, lengths_B: Tensor, item_vectors: Any) -> Tensor:
        """Return the representations of whole sequences, without noise -> [B, C, D].

        `items_BT` is padded at the end; `item_vectors` is what the method `item_vectors`, or
        `item_tokens`, returned.
        """
        raise NotImplementedError
