"""Parameters with a row for each item, whose gradient travels as rows: E under the sampled loss.

A step reads a few rows of them. DeepSpeed would make, exchange and check a gradient of their whole
size, so its engine does not know them. They are whole on every rank. Adam's moments are whole at
ZeRO stage 0. At the other stages a rank holds those of its own range of items, takes Adam's step
for these, and sends the result.

X items, R rows of a step, D width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from mdsrec.config import Experiment
from training.data.batch import Batch, ItemRows
from training.data.long_rows import LongRows
from training.sharding.adam import adam_of_all, adam_of_rows, rows_in_cache, zero_block
from training.sharding.item_shards import EMBEDDING
from training.sharding.ownership import Shards
from training.sharding.rows import gather_rows, sum_rows


class ItemParameters:
    """The weights of all items on this rank, and Adam's moments of this rank's own items."""

    shards: Shards | None = None  # every rank has the rows of all items
    items: Tensor | None = None

    def __init__(
        self,
        weights: dict[str, Tensor],
        center_rows: Mapping[str, LongRows],
        experiment: Experiment,
    ) -> None:
        """Take the weights [X, ...] by name, and C Ahat by product."""
        self.weights = weights
        self._center_rows = center_rows
        self.steps_taken = 0
        num_items = len(next(iter(weights.values())))
        self._is_lazy = experiment.optim.lazy_adam
        parts = distributed.get_world_size() if experiment.train.zero_stage else 1
        self._ranges = [slice(*_range(num_items, part, parts)) for part in range(parts)]
        self._own = self._ranges[distributed.get_rank() if parts > 1 else 0]
        self._moments = {
            name: (torch.zeros_like(whole[self._own]), torch.zeros_like(whole[self._own]))
            for name, whole in weights.items()
        }
        stepped = {} if self._is_lazy else weights  # as a whole
        self._zeros = {name: zero_block(whole[self._own]) for name, whole in stepped.items()}
        self._read: list[ItemRows] = []  # of the batches of this step
        self._gradients: dict[str, tuple[Tensor, Tensor]] = {}  # items and rows, by name

    def read(self, batch: Batch) -> ItemRows:
        """Return the rows that the batch reads, whose gradients the next step takes."""
        ids = batch.row_ids
        assert ids is not None
        values = {name: w.index_select(0, ids) for name, w in self.weights.items()}
        rows = ItemRows(ids, {name: value.requires_grad_() for name, value in values.items()})
        self._read.append(rows)
        return rows

    @torch.no_grad()
    def center_products(self) -> dict[str, Tensor]:
        """Return C Ahat E by product [K, D]."""
        return {
            name: rows.times(self.weights[EMBEDDING]) for name, rows in self._center_rows.items()
        }

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Take the mean of the ranks' gradients of the step. Collective."""
        read, self._read = self._read, []
        for name in self.weights:
            gradients = [_gradient(rows.values[name]) for rows in read]
            summed = sum_rows([rows.ids for rows in read], gradients)
            self._gradients[name] = _sum_over_ranks(*summed)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take Adam's step on the gathered gradients. Collective."""
        self.steps_taken += 1
        for name, whole in self.weights.items():
            ids, gradient = self._gradients.pop(name)
            if len(self._ranges) > 1:
                ids, gradient = self._of_own(ids, gradient)
            state = whole[self._own], *self._moments[name]
            if self._is_lazy:
                ids = adam_of_rows(state, ids, gradient, rate, self.steps_taken)
            else:
                adam_of_all(state, ids, gradient, self._zeros[name], rate, self.steps_taken)
            if len(self._ranges) > 1:
                self._send(whole, ids if self._is_lazy else None)

    def _of_own(self, ids: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the own items among `ids`, counted from the first own one, and their gradient."""
        own = self._own
        start, stop = torch.searchsorted(ids, ids.new_tensor([own.start, own.stop])).tolist()
        return ids[start:stop] - own.start, gradient[start:stop]

    def _send(self, whole: Tensor, ids: Tensor | None) -> None:
        """Send the own weights to the other ranks, or only those of the own items `ids`."""
        if ids is None:
            for source, part in enumerate(self._ranges):
                distributed.broadcast(whole[part], src=source)
            return
        for items, rows in gather_rows(ids + self._own.start, whole[self._own][ids]):
            whole.index_copy_(0, items, rows)

    @property
    def full_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(whole.shape) for name, whole in self.weights.items()}

    def is_finite(self) -> bool:
        """Return True if the own weights have no NaN and no infinity. Not collective."""
        own = (whole[self._own] for whole in self.weights.values())
        chunks = (chunk for part in own for chunk in torch.split(part, rows_in_cache(part)))
        return all(bool(chunk.isfinite().all()) for chunk in chunks)

    def held_state(self, name: str, moment: int | None) -> Tensor:
        """Return the weights of all items, or one of the moments, flat. Collective."""
        whole = self.weights[name]
        if moment is None:
            return whole.flatten()
        own = self._moments[name][moment]
        if len(self._ranges) == 1:
            return own.flatten()
        gathered = torch.empty_like(whole)
        gathered[self._own] = own
        for source, part in enumerate(self._ranges):
            distributed.broadcast(gathered[part], src=source)
        return gathered.flatten()

    def set_held_state(self, name: str, moment: int | None, value: Tensor) -> None:
        """Set what `held_state` returns. `value` is flat and the same on every rank."""
        whole = self.weights[name]
        value = value.view_as(whole)
        if moment is None:
            whole.copy_(value)
        else:
            self._moments[name][moment].copy_(value[self._own])


def _sum_over_ranks(ids: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean gradient over the ranks. The losses are scaled so that it is their sum."""
    world_size = distributed.get_world_size()
    if world_size == 1:
        return ids, gradient
    ids, gradient = sum_rows(*zip(*gather_rows(ids, gradient), strict=True))
    return ids, gradient.div_(world_size)


def _gradient(value: Tensor) -> Tensor:
    return torch.zeros_like(value) if value.grad is None else value.grad


def _range(num_items: int, part: int, parts: int) -> tuple[int, int]:
    return num_items * part // parts, num_items * (part + 1) // parts
