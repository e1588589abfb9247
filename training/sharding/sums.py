"""Products with long rows, as N(O) E of Eq. 3, summed at the owners of the columns.

A row of N(O) can have 100,000 entries. Each rank multiplies those of its own columns, and only sums
travel: one row of D numbers from each rank.

X items, n rows that this rank reads, N those of all ranks, D width.
"""

import numpy as np
import torch
from torch import Tensor

from mdsrec.arrays import Ints
from training.data.plans import SumPlan
from training.data.sparse import SparseMatrix
from training.sharding.peers import Peers

NO_ITEM = np.iinfo(np.int64).max  # behind all items


class OwnColumns:
    """A sparse matrix [X, X] of which each rank holds the columns of its own items.

    Rows without an entry in them are not stored.
    """

    def __init__(self, items: Ints, own: SparseMatrix, planner: Peers) -> None:
        """Take the rows `own`, whose columns are own rows of E, of the `items`, which ascend."""
        starts = np.append(own.starts, own.starts[-1])  # one more row, for items without any
        self._rows = SparseMatrix(starts, own.columns, own.weights)
        self._items = np.append(items, NO_ITEM).astype(np.int64)
        self._planner = planner

    @property
    def items(self) -> Ints:
        """Return the items whose rows have an entry in own columns, ascending."""
        return self._items[:-1]

    @property
    def num_entries(self) -> int:
        return len(self._rows.columns)

    @property
    def nbytes(self) -> int:
        return self._items.nbytes + self._rows.nbytes

    def select(self, items: Ints, device: torch.device) -> SumPlan:
        """Plan the product of the rows of `items`, in any order, with E. Collective."""
        counts = self._planner.gather_counts(len(items))
        wanted = self._planner.gather("ids", torch.from_numpy(items), counts).numpy()
        rows = np.searchsorted(self._items, wanted)
        rows[self._items[rows] != wanted] = len(self._items) - 1
        return SumPlan(self._rows.select(rows, device), counts)


def sharded_product(plan: SumPlan, own: Tensor, peers: Peers) -> Tensor:
    """Return the product of this rank's rows with E [n, D]; `own` are its own rows. Collective.

    The ranks' parts are added in order.
    """
    num_rows = plan.counts[peers.rank]
    expected = [num_rows] * peers.world_size
    found = peers.swap("sums", plan.entries.times(own), plan.counts, expected)
    parts = torch.split(found, expected)
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def add_product_gradient(plan: SumPlan, gradient: Tensor, out: Tensor, peers: Peers) -> None:
    """Add the gradient of a product [n, D] to that of the owners, `out`. Collective."""
    of_all = peers.gather("gradients of sums", gradient, plan.counts)
    plan.entries.add_transposed(out, of_all, len(out))
