"""Parameters with a row for each item, of which each rank holds the rows of its own items.

A step reads rows of other ranks by exchange, and the products whose rows are long as sums. Both are
given to the model as tensors with a gradient of their own, which returns to the owners when the
step ends. So all collectives come in the same order on every rank, and DeepSpeed's are never
between them.

X items, n own ones, h of the halo (neighbors of own items that others own), D width, K centers.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mdsrec.config import Experiment
from training.data.batch import Batch, ItemRows, OwnItems
from training.data.long_rows import LongRows
from training.data.plans import Plan, SumPlan
from training.sharding.adam import adam_of_rows, adam_of_whole, rows_in_cache
from training.sharding.exchange import add_rows, read_rows
from training.sharding.owners import Owners
from training.sharding.sums import add_product_gradient, sharded_product

EMBEDDING = "item_embedding"  # the parameter that graphs are multiplied by
NO_IDS = torch.empty(0, dtype=torch.int64)


class _Read(NamedTuple):
    """A batch that was read: its plans, and the tensors whose gradients return."""

    rows: ItemRows
    plan: Plan
    sums: Mapping[str, SumPlan]


class ItemShards:
    """The own rows of each parameter, their gradient, and Adam's moments.

    A parameter takes 16 n D bytes, and 8 h D for the halo of the full softmax.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        center_rows: Mapping[str, LongRows],
        keeps_centers: bool,
        owners: Owners,
        experiment: Experiment,
    ) -> None:
        """Take the own rows of each parameter, and of each constant that the model reads by item.

        `center_rows` are the own columns of C Ahat, by product. A model that `keeps_centers` does
        not read these products in every step.
        """
        self.steps_taken = 0
        self.shards = owners.shards
        in_order = owners.order.place_of is None
        self.items = None if in_order else torch.from_numpy(owners.items)  # int32 [n]
        device = next(iter(weights.values())).device
        to_device = partial(Tensor.to, device=device)
        self._peers, self._halo = owners.peers, tree_map_only(Tensor, to_device, owners.halo)
        self._constants = constants
        self._center_rows = center_rows
        self._rows_of_step = {} if keeps_centers else center_rows
        self._is_lazy = experiment.optim.lazy_adam
        scores_all = experiment.train.loss == "full"
        room = len(self._halo.ids) if self._halo is not None and scores_all else 0
        self._tables = {
            name: _with_room(own, room) if name == EMBEDDING else own
            for name, own in weights.items()
        }
        self._gradients = {name: torch.zeros_like(t) for name, t in self._tables.items()}
        self._moments = {
            name: (torch.zeros_like(own), torch.zeros_like(own)) for name, own in weights.items()
        }
        self._read: list[_Read] = []  # of the batches of this step
        self._changed: Tensor | None = None  # own rows that the step changes; None: all

    @property
    def weights(self) -> dict[str, Tensor]:
        """Return the own rows of each parameter [n, ...]."""
        return {name: self._own(table) for name, table in self._tables.items()}

    def read(self, batch: Batch) -> ItemRows:
        """Return what the batch reads, whose gradients the next step takes. Collective."""
        found = self.look_up(batch, self._products(self._rows_of_step))
        leaves = [found.values[name] for name in self.weights]
        for leaf in (*leaves, *found.products.values()):
            leaf.requires_grad_()
        rows = found._replace(own=self._own_items(batch))
        assert batch.plan is not None
        self._read.append(_Read(rows, batch.plan, batch.sums))
        return rows

    @torch.no_grad()
    def look_up(self, batch: Batch, products: Mapping[str, Tensor]) -> ItemRows:
        """Return what the batch reads, and these `products`, without gradient. Collective."""
        plan, own = batch.plan, self.weights
        assert plan is not None
        rows_of = {**own, **self._constants}
        values = {name: read_rows(plan, rows, self._peers) for name, rows in rows_of.items()}
        embedding = own[EMBEDDING]
        sums = {
            n: sharded_product(found, embedding, self._peers) for n, found in batch.sums.items()
        }
        return ItemRows(plan.ids.to(embedding.device), values, {**products, **sums})

    def _own_items(self, batch: Batch) -> OwnItems | None:
        """Return the own items if the batch scores all items; their gradients are added in place.

        The weights are those of the step's first batch, so the halo is read once.
        """
        if batch.scored is not None:
            return None
        if self._halo is not None and not self._read:
            halo = self._tables[EMBEDDING][self.shards.num_own :]
            halo.copy_(read_rows(self._halo, self.weights[EMBEDDING], self._peers))
        leaves = {}
        for name, table in self._tables.items():
            leaves[name] = table.detach().requires_grad_()
            leaves[name].grad = self._gradients[name]
        return OwnItems(self.shards.num_own, leaves)

    @torch.no_grad()
    def look_up_own(self) -> ItemRows:
        """Return the own items, with the halo's rows behind, without gradient. Collective."""
        values = self.weights
        if self._halo is not None:
            halo = read_rows(self._halo, values[EMBEDDING], self._peers)
            table, num_own = self._tables[EMBEDDING], self.shards.num_own
            if len(table) == num_own + len(halo):
                table[num_own:] = halo
                values[EMBEDDING] = table
            else:
                values[EMBEDDING] = torch.cat([values[EMBEDDING], halo])
        return ItemRows(NO_IDS, {}, own=OwnItems(self.shards.num_own, values))

    @torch.no_grad()
    def center_products(self) -> dict[str, Tensor]:
        """Return C Ahat E by product [K, D]. Collective."""
        return self._products(self._center_rows)

    def _products(self, rows_of: Mapping[str, LongRows]) -> dict[str, Tensor]:
        own = self.weights[EMBEDDING]
        return {name: self._peers.sum("centers", rows.times(own)) for name, rows in rows_of.items()}

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Add up the gradients at the owners, as means over the ranks. Collective.

        The losses are scaled so that a gradient is the sum of the ranks' means.
        """
        read, self._read = self._read, []
        for name, gradient in self._gradients.items():
            own = self._own(gradient)
            if name == EMBEDDING and self._halo is not None and read[0].rows.own is not None:
                add_rows(self._halo, gradient[self.shards.num_own :], own, self._peers)
            for rows, plan, _ in read:
                add_rows(plan, _gradient(rows.values[name]), own, self._peers)
        own = self._own(self._gradients[EMBEDDING])
        for rows, _, sums in read:
            for name, sum_plan in sums.items():
                add_product_gradient(sum_plan, _gradient(rows.products[name]), own, self._peers)
            for name, of_centers in self._rows_of_step.items():
                gradient = self._peers.sum("centers", _gradient(rows.products[name]))
                of_centers.add_transposed(own, gradient, self.shards.num_items)
        for gradient in self._gradients.values():
            self._own(gradient).div_(self._peers.world_size)
        self._changed = _changed_rows(read) if self._is_lazy else None

    def squared_norm(self) -> Tensor:
        """Return the squared norm of the gradient over all ranks [1]. Collective."""
        gradients = map(self._own, self._gradients.values())
        parts = [gradient.double().square().sum() for gradient in gradients]
        return self._peers.sum("norm", torch.stack(parts).sum()[None])

    def scale_gradients(self, factor: Tensor) -> None:
        for gradient in self._gradients.values():
            gradient.mul_(factor)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take Adam's step on the gathered gradients of the own rows."""
        self.steps_taken += 1
        for name, table in self._tables.items():
            gradient = self._gradients[name]
            state = self._own(table), *self._moments[name]
            if self._changed is None:
                adam_of_whole(state, self._own(gradient), rate, self.steps_taken)
                gradient.zero_()
            else:
                rows = self._changed
                adam_of_rows(state, rows, gradient.index_select(0, rows), rate, self.steps_taken)
                gradient.index_fill_(0, rows, 0.0)

    def is_finite(self) -> bool:
        """Return True if the own weights have no NaN and no infinity. Not collective."""
        parts = self.weights.values()
        chunks = (chunk for part in parts for chunk in torch.split(part, rows_in_cache(part)))
        return all(bool(chunk.isfinite().all()) for chunk in chunks)

    @property
    def full_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters over all ranks."""
        num_items = self.shards.num_items
        return {name: (num_items, *own.shape[1:]) for name, own in self.weights.items()}

    def held_state(self, name: str, moment: int | None) -> Tensor:
        """Return the own weights, or one of the moments, flat. It may be written to."""
        return self._state(name, moment).view(-1)

    def set_held_state(self, name: str, moment: int | None, value: Tensor) -> None:
        """Set what `held_state` returns."""
        self._state(name, moment).view(-1).copy_(value)

    def _state(self, name: str, moment: int | None) -> Tensor:
        return self.weights[name] if moment is None else self._moments[name][moment]

    def _own(self, table: Tensor) -> Tensor:
        """Return a table or gradient without the rows of the halo."""
        return table[: self.shards.num_own]


def _with_room(own: Tensor, num_rows: int) -> Tensor:
    """Return a tensor that starts with these rows and has room for more."""
    if not num_rows:
        return own
    table = own.new_zeros(len(own) + num_rows, *own.shape[1:])
    table[: len(own)] = own
    return table


def _changed_rows(read: list[_Read]) -> Tensor:
    """Return the own rows that got a gradient, ascending."""
    parts = [plan.wanted for _, plan, _ in read]
    parts += [p.entries.columns.long() for _, _, sums in read for p in sums.values()]
    rows: Tensor = torch.unique(torch.cat(parts))
    return rows


def _gradient(value: Tensor) -> Tensor:
    found: Tensor | None = value.grad
    return torch.zeros_like(value) if found is None else found
