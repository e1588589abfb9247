"""Parameters with a row for each item, whose gradient travels as rows: E under the sampled loss.

A step reads a few rows of them. DeepSpeed would make, exchange and check a gradient of their whole
size, so its engine does not know them. They are whole on every rank. Adam's moments are whole at
ZeRO stage 0. At the other stages a rank holds those of its own range of items, takes Adam's step
for these, and sends the result.

X items, R rows of a step, D width.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.optim.adam import adam

from mdsrec.config import Experiment
from training.data.batch import ItemRows
from training.device import working_set
from training.models.base import Model

LANES = 64
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # the defaults of torch.optim.Adam, which the engine uses


class ItemParameters:
    """The weights of all items on this rank, and Adam's moments of this rank's own items."""

    def __init__(self, weights: dict[str, Tensor], experiment: Experiment) -> None:
        self.weights = weights  # [X, ...] by name
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
        self._read: list[ItemRows] = []  # of the batches of this step

    def read(self, ids: Tensor) -> ItemRows:
        """Return the rows of the items `ids`, whose gradients the next step takes."""
        values = {name: w.index_select(0, ids) for name, w in self.weights.items()}
        rows = ItemRows(ids, {name: value.requires_grad_() for name, value in values.items()})
        self._read.append(rows)
        return rows

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take Adam's step on the mean of the ranks' gradients. Collective."""
        read, self._read = self._read, []
        self.steps_taken += 1
        for name, whole in self.weights.items():
            gradients = [_gradient(rows.values[name]) for rows in read]
            ids, gradient = sum_rows([rows.ids for rows in read], gradients)
            ids, gradient = _sum_over_ranks(ids, gradient)
            start, stop = torch.searchsorted(ids, ids.new_tensor([self._own.start, self._own.stop]))
            ids, gradient = ids[start:stop] - self._own.start, gradient[start:stop]
            state = whole[self._own], *self._moments[name]
            if self._is_lazy:
                ids = adam_of_rows(state, ids, gradient, rate, self.steps_taken)
            else:
                adam_of_all(state, ids, gradient, rate, self.steps_taken)
            if len(self._ranges) > 1:
                self._send(whole, ids if self._is_lazy else None)

    def _send(self, whole: Tensor, ids: Tensor | None) -> None:
        """Send the own weights to the other ranks, or only those of the own items `ids`."""
        if ids is None:
            for source, part in enumerate(self._ranges):
                distributed.broadcast(whole[part], src=source)
            return
        for items, rows in gather_rows(ids + self._own.start, whole[self._own][ids]):
            whole.index_copy_(0, items, rows)

    def is_finite(self) -> bool:
        """Return True if the own weights have no NaN and no infinity. Not collective."""
        own = (whole[self._own] for whole in self.weights.values())
        chunks = (chunk for part in own for chunk in torch.split(part, _rows_in(part)))
        return all(bool(chunk.isfinite().all()) for chunk in chunks)

    def full_state(self, name: str, moment: int | None) -> Tensor:
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

    def set_full_state(self, name: str, moment: int | None, value: Tensor) -> None:
        """Set what `full_state` returns. `value` is flat and the same on every rank."""
        whole = self.weights[name]
        value = value.view_as(whole)
        if moment is None:
            whole.copy_(value)
        else:
            self._moments[name][moment].copy_(value[self._own])


def item_parameters(model: Model, experiment: Experiment) -> ItemParameters | None:
    """Take the parameters of a row for each item from the model; None if steps change all rows."""
    if not experiment.steps_by_rows:
        return None
    return ItemParameters(model.detach_item_parameters(), experiment)


State = tuple[Tensor, Tensor, Tensor]  # weights [n, ...] and Adam's moments of them


def adam_of_all(state: State, ids: Tensor, gradient: Tensor, rate: float, steps: int) -> None:
    """Take Adam's step number `steps` for all rows. Those not in `ids` have the gradient 0.

    `ids` [R] ascend. The rows are stepped in blocks, so the zeros are never as large as the table.
    """
    size = _rows_in(state[0])
    starts = range(0, len(state[0]), size)
    edges = torch.searchsorted(ids, ids.new_tensor([*starts, len(state[0])])).tolist()
    block = torch.zeros_like(state[0][:size])
    for first, start, stop in zip(starts, edges, edges[1:], strict=False):
        rows = ids[start:stop] - first
        block.index_copy_(0, rows, gradient[start:stop])
        part = [tensor[first : first + size] for tensor in state]
        _adam(part, block[: len(part[0])], rate, steps)
        block.index_fill_(0, rows, 0.0)


def adam_of_rows(state: State, ids: Tensor, gradient: Tensor, rate: float, steps: int) -> Tensor:
    """Take Adam's step number `steps` for the rows `ids` only, and return `ids` (lazy Adam)."""
    part = [tensor.index_select(0, ids) for tensor in state]
    _adam(part, gradient, rate, steps)
    for tensor, rows in zip(state, part, strict=True):
        tensor.index_copy_(0, ids, rows)
    return ids


def _adam(state: Sequence[Tensor], gradient: Tensor, rate: float, steps: int) -> None:
    if not gradient.numel():
        return
    taken = torch.tensor(float(steps - 1), device=gradient.device)
    weights, first_moment, second_moment = state
    adam(
        [weights],
        [gradient],
        [first_moment],
        [second_moment],
        [],
        [taken],
        fused=True,
        amsgrad=False,
        beta1=BETA1,
        beta2=BETA2,
        lr=rate,
        weight_decay=0.0,
        eps=EPS,
        maximize=False,
    )


def sum_rows(ids: Sequence[Tensor], rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the distinct ids, ascending, and the sum of the rows of each, in the order given.

    The ids of one part are distinct and ascend.
    """
    if len(ids) == 1:
        return ids[0], rows[0]
    distinct, index = torch.unique(torch.cat(list(ids)), return_inverse=True)
    sums = rows[0].new_zeros(len(distinct), *rows[0].shape[1:])
    return distinct, sums.index_add_(0, index, torch.cat(list(rows)))


def gather_rows(ids: Tensor, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the ids and rows of every rank, in the order of ranks. Collective."""
    size = ids.new_tensor([len(ids)])
    sizes = [torch.empty_like(size) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, size)
    counts = torch.cat(sizes).tolist()
    gathered = []
    for part in (ids, rows):
        padded = F.pad(part, (0, 0) * (part.dim() - 1) + (0, max(counts) - len(part)))
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded.contiguous())
        gathered.append([part[:count] for part, count in zip(parts, counts, strict=True)])
    return list(zip(*gathered, strict=True))


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


def _rows_in(rows: Tensor) -> int:
    """Return how many rows make a block that stays in the cache while Adam steps it.

    It is a multiple of LANES, so that no vector of the processor is cut, which would round another
    way.
    """
    rows_in_cache = working_set(rows) // (rows.element_size() * math.prod(rows.shape[1:]))
    return max(LANES, rows_in_cache // LANES * LANES)
