"""An item graph of which each rank holds the rows of its own items.

X items, n own ones, h of the halo: the neighbors of own items that other ranks own.
"""

import numpy as np
import torch
from torch import Tensor

from mdsrec.arrays import Ints
from training.data.device_matrices import DeviceGraph, DeviceMatrix
from training.data.plans import Plan
from training.data.sparse import Entries, SparseMatrix
from training.sharding.exchange import plan_rows
from training.sharding.ownership import Shards
from training.sharding.peers import Peers

CPU = torch.device("cpu")


class OwnRows:
    """The rows of own items of a matrix [X, X], which other ranks gather."""

    def __init__(self, own: SparseMatrix, shards: Shards, planner: Peers) -> None:
        self.own, self.shards, self._planner = own, shards, planner
        self.halo = np.empty(0, np.int64)  # items, ascending; set before `on_device` is called

    def select(self, items: Ints, device: torch.device) -> Entries:
        """Return the rows of the items, in any order, from their owners. Collective."""
        ids, place = np.unique(items, return_inverse=True)
        plan = plan_rows(torch.from_numpy(ids), self.shards, self._planner)
        return self._swap(plan).select(place, device)

    def _swap(self, plan: Plan) -> SparseMatrix:
        """Exchange the rows of the plan; return those that this rank reads."""
        swap, wanted = self._planner.swap, self.own.select(plan.wanted.numpy(), CPU)
        lengths = swap("graphs", wanted.starts.diff(), plan.sent, plan.received)
        sent = _sums(wanted.starts.diff(), plan.sent)
        received = _sums(lengths, plan.received)
        columns, weights = (
            swap("graphs", part, sent, received) for part in (wanted.columns, wanted.weights)
        )
        starts = np.concatenate([[0], np.cumsum(lengths.numpy(), dtype=np.int64)])
        return SparseMatrix(starts, columns.numpy(), weights.numpy())

    def remote_columns(self) -> Ints:
        """Return the distinct columns that other ranks own, ascending."""
        columns = np.unique(self.own.columns)
        return columns[(columns < self.shards.first) | (columns >= self.shards.last)]

    def on_device(self) -> "OwnGraph":
        """Return the graph for the model's device, with columns of own items and of the halo."""
        columns, first = self.own.columns.astype(np.int64), self.shards.first
        is_own = (columns >= first) & (columns < self.shards.last)
        behind = self.shards.num_own + np.searchsorted(self.halo, columns)
        local = np.where(is_own, columns - first, behind).astype(np.int32)
        return OwnGraph(self, SparseMatrix(self.own.starts, local, self.own.weights))


class OwnGraph(DeviceGraph):
    """An item graph inside a model: own rows on its device, those of others by request."""

    def __init__(self, rows: OwnRows, local: SparseMatrix) -> None:
        super().__init__()
        self._rows, self.local = rows, DeviceMatrix(local)

    @property
    def nbytes(self) -> int:
        return self._rows.own.nbytes + self.local.nbytes

    def select(self, items: Ints, device: torch.device) -> Entries:
        """Return the rows of the items, in any order. Collective."""
        return self._rows.select(items, device)

    def between(self, first: int, last: int) -> Entries:
        """Return the rows of own items, first <= number < last.

        A column is the number of an own item, or n + its place in the halo.
        """
        return self.local.between(first, last)

    def add_transposed(self, first: int, out_XD: Tensor, dense_nD: Tensor, num_items: int) -> None:
        self.local.add_transposed(first, out_XD, dense_nD, num_items)


def _sums(lengths: torch.Tensor, counts: list[int]) -> list[int]:
    """Return the sum of each part of the lengths."""
    return [int(part.sum()) for part in torch.split(lengths, counts)]
