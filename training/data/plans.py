"""Plans of what a rank exchanges with the owners of items: made in the background, used later.

R rows that this rank reads, S rows of its own that the ranks read; n rows of a matrix that this
rank reads, N those of all ranks.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mdsrec.arrays import Ints
from training.data.device_matrices import StackedEntries
from training.data.sparse import Entries


class Plan(NamedTuple):
    """Rows to exchange."""

    ids: Tensor  # int64 [R], ascending, the items whose rows this rank reads
    received: list[int]  # how many of them each rank owns
    wanted: Tensor  # int64 [S], own rows that rank 0, 1, ... reads
    sent: list[int]  # how many of them each rank reads


class SumPlan(NamedTuple):
    """Rows of a matrix whose products are summed at the owners of its columns."""

    entries: Entries | StackedEntries  # [N, own columns], the rows of rank 0, 1, ...
    counts: list[int]  # how many rows each rank reads


class RowSource(Protocol):
    """A sparse matrix whose rows are selected by item."""

    @property
    def nbytes(self) -> int: ...

    def select(self, items: Ints, device: torch.device) -> Entries | SumPlan:
        """Return the rows of the items, in any order, or the plan of their products."""
