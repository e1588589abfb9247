"""Owners of items: each rank owns a contiguous range of them.

X items, W ranks. The bounds are multiples of BLOCK, so that a range can be cut into equal blocks.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mdsrec.arrays import Ints

BLOCK = 1024  # items


@dataclass(frozen=True)
class Shards:
    """The ranges of the ranks, and that of this rank."""

    num_items: int
    world_size: int
    rank: int

    @cached_property
    def bounds(self) -> Ints:
        """Return the first item of each rank, then X -> [W + 1].

        The ranges are as equal as blocks allow; some are empty if there are fewer blocks than
        ranks.
        """
        blocks, parts = -(-self.num_items // BLOCK), np.arange(self.world_size + 1)
        return np.minimum(BLOCK * (blocks * parts // self.world_size), self.num_items)

    @property
    def first(self) -> int:
        """Return the first item of this rank."""
        return int(self.bounds[self.rank])

    @property
    def last(self) -> int:
        """Return the item behind the last one of this rank."""
        return int(self.bounds[self.rank + 1])

    @property
    def num_own(self) -> int:
        return self.last - self.first

    def counts(self, ids: Tensor) -> list[int]:
        """Return how many of the items, which ascend, each rank owns."""
        edges = torch.from_numpy(self.bounds).to(ids.device)
        return torch.searchsorted(ids, edges).diff().tolist()

    def owners(self, items: Ints) -> Ints:
        """Return the rank that owns each item."""
        return self.bounds[1:].searchsorted(items, side="right")
