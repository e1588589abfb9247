"""The parts of the softmax over all items: chunks and blocks of items, and tiles of scores.

One product with the item graph gives the vectors of a chunk. Its items are scored in blocks, and a
tile has the scores of a block for some of the prefixes. On a CPU a tile stays in the cache, and its
products take less time for each score than larger ones (docs/performance.md). A GPU gets large
tiles: the host needs longer to launch the kernels of a small one than the GPU to run them.

P prefixes, X items, D width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from training.data.device_matrices import BLOCK
from training.losses.softmax_group import SoftmaxGroup

SAVED_BYTES = 256 << 20  # scores and vectors of all channels up to this size are kept
VECTOR_BYTES = 8 << 20  # item vectors of a chunk
PREFIXES = 512  # of a tile
ITEMS = 384  # of a block, for each thread
GPU_SAVED_BYTES = 2 << 30  # kept on a GPU, where a channel's scores are then one tile
GPU_TILE_BYTES = 1 << 30


class Tiles(NamedTuple):
    """P prefixes and X items in parts."""

    num_prefixes: int
    num_items: int
    chunk: int  # items of a chunk
    block: int  # items of a block
    prefixes: int  # of a tile
    keeps: bool  # item vectors and scores, until the backward pass

    def chunks(self) -> Iterator[slice]:
        """Yield the items of each chunk."""
        return _parts(0, self.num_items, self.chunk)

    def blocks(self, chunk: slice) -> Iterator[slice]:
        """Yield the items of each block of a chunk."""
        return _parts(chunk.start, chunk.stop, self.block)

    def parts(self) -> Iterator[slice]:
        """Yield the prefixes of each tile; one empty part if there are no prefixes."""
        return _parts(0, max(1, self.num_prefixes), self.prefixes)


def tiles_of(num_prefixes: int, num_items: int, num_channels: int, table_XD: Tensor) -> Tiles:
    """Choose the parts for the device and the dtype of a table."""
    number, D, on_gpu = table_XD.element_size(), table_XD.shape[1], table_XD.is_cuda
    all_bytes = number * (num_prefixes + D) * num_items * num_channels  # scores and item vectors
    keeps = all_bytes <= (GPU_SAVED_BYTES if on_gpu else SAVED_BYTES)
    if not on_gpu:
        block = ITEMS * torch.get_num_threads()
        chunk = block * max(1, VECTOR_BYTES // (number * D * block))
        return Tiles(num_prefixes, num_items, chunk, block, PREFIXES, keeps)
    if keeps:
        items, prefixes = max(1, num_items), max(1, num_prefixes)
        return Tiles(num_prefixes, num_items, items, items, prefixes, keeps)
    blocks = GPU_TILE_BYTES // (number * max(num_prefixes, D)) // BLOCK
    chunk = BLOCK * max(1, blocks)
    prefixes = max(1, GPU_TILE_BYTES // (number * min(chunk, num_items)))
    return Tiles(num_prefixes, num_items, chunk, chunk, prefixes, keeps)


class Targets:
    """The targets of the prefixes among the items of a tile."""

    def __init__(self, targets_P: Tensor, tiles: Tiles, group: SoftmaxGroup) -> None:
        self._targets_P = targets_P
        holds_all = min(tiles.chunk, tiles.block) >= tiles.num_items
        self._has_all = holds_all and not group.shares_items
        self._tile: tuple[slice, slice] | None = None
        self._index, self._inside = targets_P[:, None], targets_P
        self._minus_one: Tensor | None = None

    def scores(
        self, scores: Tensor, prefixes: slice, items: slice, before: Tensor | None
    ) -> Tensor:
        """Return the targets' scores [p]: from this tile where it holds the target, else `before`.

        None means zeros.
        """
        if self._has_all:
            return scores.gather(1, self._index[prefixes])[:, 0]
        self._move_to(prefixes, items)
        own = scores.gather(1, self._index)[:, 0]
        return torch.where(self._inside, own, torch.zeros_like(own) if before is None else before)

    def subtract_one(self, error: Tensor, prefixes: slice, items: slice) -> None:
        """Subtract 1 at the target: the gradient of the scores is the probability, less 1 there."""
        if self._has_all:
            if self._minus_one is None:
                self._minus_one = error.new_full((1, 1), -1.0)
            index = self._index[prefixes]
            error.scatter_add_(1, index, self._minus_one.expand_as(index))
            return
        self._move_to(prefixes, items)
        error.scatter_add_(1, self._index, -self._inside[:, None].to(error.dtype))

    def _move_to(self, prefixes: slice, items: slice) -> None:
        """Find the targets as indexes into a tile [p, 1], and which of them are in it [p]."""
        if self._tile != (prefixes, items):
            index = self._targets_P[prefixes] - items.start
            count = items.stop - items.start
            self._tile, self._index = (prefixes, items), index.clamp(0, count - 1)[:, None]
            self._inside = (index >= 0) & (index < count)


def _parts(first: int, last: int, size: int) -> Iterator[slice]:
    for start in range(first, last, size):
        yield slice(start, min(start + size, last))
