"""Rows of items in a checkpoint, which the ranks together read once, for their owners.

Where a rank's items lie side by side in the checkpoint, it reads just these. Otherwise each rank
reads a part and sends the rows to their owners.

X items, n own ones.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mdsrec.arrays import Ints
from training.checkpoints.stored_parts import part_bounds
from training.sharding.owners import Owners

ROWS = 1 << 16  # of items, read at a time


class FlatRows(Protocol):
    """Tensors with a row for each item, stored flat, as in `StoredParts`."""

    @property
    def sizes(self) -> Mapping[str, int]: ...
    @property
    def has_items(self) -> bool: ...
    def has_order(self, key: str) -> bool: ...
    def elements(self, key: str, first: int, last: int) -> Tensor: ...
    def items_between(self, first: int, last: int) -> Ints: ...


class OwnedRows:
    """The rows of this rank's items. Its methods are collective."""

    def __init__(self, stored: FlatRows, owners: Owners) -> None:
        self._stored, self._owners = stored, owners

    def read(self, key: str, out: Tensor) -> None:
        """Set the rows of the own items, flat, to those of a tensor of the checkpoint."""
        shards, size = self._owners.shards, self._stored.sizes[key]
        width = size // shards.num_items
        rows_nF, has_order = out.view(-1, width), self._stored.has_order(key)
        if self._lie_together[has_order]:
            for first, last in _pieces(shards.first, shards.last):
                found = self._stored.elements(key, first * width, last * width)
                rows_nF[first - shards.first : last - shards.first] = found.view(-1, width)
            return
        for rows, places in self._exchanged(key, width, has_order):
            rows_nF[(places - shards.first).to(out.device)] = rows.to(out.device)

    def _exchanged(self, key: str, width: int, has_order: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Read this rank's part, and yield the rows for it from all ranks, with their places."""
        shards, planner = self._owners.shards, self._owners.planner
        first, last = part_bounds(shards.num_items, shards.rank, shards.world_size)
        items = self._part_items if has_order else np.arange(first, last)
        most = -(
            -shards.num_items // shards.world_size
        )  # of a rank, so all take part equally often
        for start in range(0, most, ROWS):
            lower, upper = min(first + start, last), min(first + start + ROWS, last)
            places = self._owners.order.places(items[lower - first : upper - first])
            order = torch.from_numpy(np.argsort(places))
            ascending = torch.from_numpy(places).long()[order]
            rows = self._stored.elements(key, lower * width, upper * width).view(-1, width)[order]
            sent = shards.counts(ascending)
            expected = planner.swap_counts(sent)
            received = planner.swap("restored", rows, sent, expected)
            yield received, planner.swap("restored", ascending, sent, expected)

    @cached_property
    def _part_items(self) -> Ints:
        """Return the items of the rows that this rank reads for all."""
        shards = self._owners.shards
        bounds = part_bounds(shards.num_items, shards.rank, shards.world_size)
        return self._stored.items_between(*bounds)

    @cached_property
    def _lie_together(self) -> dict[bool, bool]:
        """Return whether own items lie together on every rank, by whether rows have an order."""
        shards, own = self._owners.shards, self._owners.items
        found = {False: self._owners.order.place_of is None, True: False}
        if self._stored.has_items:
            stored = self._stored.items_between(shards.first, shards.last)
            is_same = self._owners.planner.gather_counts(int(np.array_equal(own, stored)))
            found[True] = all(is_same)
        return found


def _pieces(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield first and last + 1 of the rows that are read at a time."""
    for start in range(first, last, ROWS):
        yield start, min(start + ROWS, last)
