"""The parts of a checkpoint, read by any number of ranks: what each rank needs, no more.

A flat tensor is cut into one part for each file. The parts are equal, or their starts are stated;
those of rows of items are then in the order in which ranks own them, which ITEMS lists.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsrec.arrays import Ints
from training.checkpoints.tensor_file import ITEMS

STARTS = "starts"  # in the metadata of a file: the first element of each part that is owned
ROWS = 1 << 16  # of items, read together where their order differs


class StoredParts:
    """The open safetensors files of a checkpoint, one for each rank that wrote it."""

    def __init__(self, files: Sequence[Any]) -> None:
        self._files = files

    @property
    def steps_taken(self) -> int:
        return int(self._files[0].metadata()["steps_taken"])

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Return the number of elements of each tensor."""
        keys = [key for key in self._files[0].keys() if key != ITEMS]  # noqa: SIM118
        return {key: sum(self._length(file, key) for file in self._files) for key in keys}

    @cached_property
    def items(self) -> Ints | None:
        """Return the items in the order of their rows; None if that is the order of items."""
        if ITEMS not in self._files[0].keys():  # noqa: SIM118
            return None
        return np.concatenate([file.get_tensor(ITEMS).numpy() for file in self._files])

    def elements(self, key: str, first: int, last: int) -> Tensor:
        """Return elements first <= element < last; only they are read."""
        joined, size = torch.empty(last - first), self.sizes[key]
        for rank, (file, stated) in enumerate(zip(self._files, self._starts, strict=True)):
            start = stated.get(key, part_bounds(size, rank, len(self._files))[0])
            lower, upper = max(first, start), min(last, start + self._length(file, key))
            if lower < upper:
                part = file.get_slice(key)[lower - start : upper - start]
                joined[lower - first : upper - first] = part
        return joined

    def rows(self, key: str, items: Ints, num_items: int) -> Tensor:
        """Return the rows of these items, flat; blocks without any of them are not read."""
        width = self.sizes[key] // num_items
        stored = self.items if key in self._starts[0] else None
        found = torch.empty(len(items), width)
        order = np.argsort(items, kind="stable")
        ascending = np.append(items[order], -1)  # -1 is never wanted
        for first in range(0, num_items, ROWS):
            last = min(first + ROWS, num_items)
            ids = np.arange(first, last) if stored is None else stored[first:last]
            index = np.searchsorted(ascending[:-1], ids)
            rows = np.flatnonzero(ascending[index] == ids)
            if len(rows):
                start, stop = first + int(rows[0]), first + int(rows[-1]) + 1
                block = self.elements(key, start * width, stop * width).view(-1, width)
                wanted = torch.from_numpy(order[index[rows]])
                found[wanted] = block[torch.from_numpy(rows - rows[0])]
        return found.flatten()

    def has_order(self, key: str) -> bool:
        """Return whether the rows of a tensor are in another order than that of items."""
        return key in self._starts[0] and self.items is not None

    @cached_property
    def _starts(self) -> list[dict[str, int]]:
        """Return the first element of each part that is not one of equal parts, by file."""
        return [json.loads(file.metadata().get(STARTS, "{}")) for file in self._files]

    def _length(self, file: Any, key: str) -> int:
        return int(file.get_slice(key).get_shape()[0])


def part_bounds(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return first and last + 1 of the elements of a flat parameter that a rank writes."""
    return size * rank // world_size, size * (rank + 1) // world_size
