"""Item graphs on the model's device, for products with many rows.

X items, D width, n rows.
"""

from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from mdsrec.arrays import Ints
from training.data.on_device.bags import BLOCK, ByColumn, blocks_by_column
from training.data.sparse import MAX_ENTRIES, Entries, SparseMatrix


class DeviceGraph(nn.Module):
    """An item graph inside a model."""

    @property
    def nbytes(self) -> int:
        """Return the bytes of the graph, on the host and on the device."""
        raise NotImplementedError

    def select(self, items: Ints, device: torch.device) -> Entries:
        """Return the rows of the items, in any order."""
        raise NotImplementedError

    def between(self, first: int, last: int) -> Entries:
        """Return the rows of the items that this rank owns, first <= number < last."""
        raise NotImplementedError

    def add_transposed(self, first: int, out_XD: Tensor, dense_nD: Tensor, num_items: int) -> None:
        """Add the product of n transposed rows with `dense_nD` to `out_XD` in place.

        They are the rows `between` `first` and `first` + n. On a GPU `first` is a multiple of
        BLOCK, and n is one or all that are left. `out_XD` has the rows of a table of `num_items`,
        or some of them.
        """
        raise NotImplementedError


class ItemGraph(Protocol):
    """An item graph in host memory, whose ranks hold parts of it."""

    def on_device(self) -> DeviceGraph:
        """Return a module that moves the graph to the model's device."""


class DeviceMatrix(DeviceGraph):
    """A sparse matrix that the model's device holds too, on a GPU also by column."""

    columns: Tensor
    weights: Tensor
    starts: Tensor

    def __init__(self, matrix: SparseMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.register_buffer("columns", torch.from_numpy(matrix.columns), persistent=False)
        self.register_buffer("weights", torch.from_numpy(matrix.weights), persistent=False)
        starts = matrix.starts.astype(np.int32 if matrix.starts[-1] <= MAX_ENTRIES else np.int64)
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)
        self._by_column: list[ByColumn] = []  # of each BLOCK of rows, on a GPU

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        self._by_column = []
        if self.columns.is_cuda:
            blocks = blocks_by_column(self.matrix)
            self._by_column = tree_map_only(Tensor, move, blocks)
        return self

    @property
    def nbytes(self) -> int:
        """Return the bytes of matrix and buffers. On a CPU they share all arrays."""
        on_gpu = [*self.buffers(), *self._by_column] if self.columns.is_cuda else []
        return self.matrix.nbytes + bytes_of(on_gpu)

    def select(self, items: Ints, device: torch.device) -> Entries:
        """Copy rows, in any order, to the device."""
        return self.matrix.select(items, device)

    def between(self, first: int, last: int) -> Entries:
        """Return rows first <= row < last."""
        start, stop = self.matrix.starts[first], self.matrix.starts[last]
        starts = self.starts[first : last + 1]
        starts = (starts - start if start else starts).to(torch.int32)
        return Entries(starts, self.columns[start:stop], self.weights[start:stop])

    def add_transposed(self, first: int, out_XD: Tensor, dense_nD: Tensor, num_items: int) -> None:
        if not self._by_column:
            rows = self.between(first, first + len(dense_nD))
            rows.add_transposed(out_XD, dense_nD, num_items)
            return
        for block, dense in enumerate(torch.split(dense_nD, BLOCK), first // BLOCK):
            self._by_column[block].add_product(out_XD, dense)


def device_graph(graph: SparseMatrix | ItemGraph) -> DeviceGraph:
    """Return a module that moves a graph to the model's device."""
    return DeviceMatrix(graph) if isinstance(graph, SparseMatrix) else graph.on_device()


def bytes_of(tensors: Any) -> int:
    """Return the bytes of all tensors in nested tuples and lists."""
    return sum(leaf.nbytes for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))
