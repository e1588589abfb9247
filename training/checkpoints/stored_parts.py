"""The parts of a checkpoint, read by any number of ranks: what each rank needs, no more.

A flat tensor is cut into one part for each file. The parts are equal, or their starts are stated;
those of rows of items are then in the order in which ranks own them, which ITEMS lists.
"""

import json
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mdsrec.arrays import Ints
from training.checkpoints.tensor_file import ITEMS, TensorFile

STARTS = "starts"  # in the metadata of a file: the first element of each part that is owned
ROWS = 1 << 16  # of items, read at a time


class StoredParts:
    """The files of a checkpoint, one for each rank that wrote it."""

    def __init__(self, files: Sequence[TensorFile]) -> None:
        self._files = files

    @property
    def steps_taken(self) -> int:
        return int(self._files[0].metadata["steps_taken"])

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Return the number of elements of each tensor."""
        keys = [key for key in self._files[0].tensors if key != ITEMS]
        return {key: sum(self._length(file, key) for file in self._files) for key in keys}

    @property
    def has_items(self) -> bool:
        """Return whether some rows are in another order than that of items."""
        return ITEMS in self._files[0].tensors

    def items_between(self, first: int, last: int) -> Ints:
        """Return the items of the rows first <= row < last, where rows have another order."""
        parts, start = [np.empty(0, np.int32)], 0
        for file in self._files:
            stop = start + self._length(file, ITEMS)
            lower, upper = max(first, start), min(last, stop)
            if lower < upper:
                parts.append(file.elements(ITEMS, lower - start, upper - start).numpy())
            start = stop
        return np.concatenate(parts)

    def elements(self, key: str, first: int, last: int) -> Tensor:
        """Return elements first <= element < last; only they are read."""
        joined, size = torch.empty(last - first), self.sizes[key]
        for rank, (file, stated) in enumerate(zip(self._files, self._starts, strict=True)):
            start = stated.get(key, part_bounds(size, rank, len(self._files))[0])
            lower, upper = max(first, start), min(last, start + self._length(file, key))
            if lower < upper:
                part = file.elements(key, lower - start, upper - start)
                joined[lower - first : upper - first] = part
        return joined

    def in_order(self, key: str, num_items: int) -> Tensor:
        """Return a tensor whose rows have an order, in that of items, flat."""
        width = self.sizes[key] // num_items
        found = torch.empty(num_items, width)
        for first in range(0, num_items, ROWS):
            last = min(first + ROWS, num_items)
            rows = self.elements(key, first * width, last * width).view(-1, width)
            found[torch.from_numpy(self.items_between(first, last)).long()] = rows
        return found.flatten()

    def has_order(self, key: str) -> bool:
        """Return whether the rows of a tensor are in another order than that of items."""
        return key in self._starts[0] and self.has_items

    @cached_property
    def _starts(self) -> list[dict[str, int]]:
        """Return the first element of each part that is not one of equal parts, by file."""
        return [json.loads(file.metadata.get(STARTS, "{}")) for file in self._files]

    def _length(self, file: TensorFile, key: str) -> int:
        return file.shape(key)[0]


def part_bounds(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return first and last + 1 of the elements of a flat parameter that a rank writes."""
    return size * rank // world_size, size * (rank + 1) // world_size
