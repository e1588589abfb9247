"""Peers that do not exist: what the other ranks would send is drawn at random, in the right shape.

The load is symmetric: each peer wants as many rows of this rank as this rank wants of it, has as
many prefixes, and sends as large parts of tables. Rows, sums and gradients are random numbers as
large as those of this rank. So times, memory and bytes are those of a rank, and losses mean
nothing.

X items, n own ones, W ranks, K centers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mdsrec.arrays import Ints
from training.sharding.ownership import Shards
from training.sharding.peers import Peers
from training.sharding.table_exchange import batch_of_bytes, bytes_of_batch

DrawItems = Callable[[np.random.Generator, int], Ints]
"""Draws so many items that ranks read, of all X."""


class StubPeers(Peers):
    """`Peers` of one rank of W in a process without the others. Bytes are counted as by `Peers`."""

    def __init__(
        self,
        shards: Shards,
        num_centers: int,
        longest_list: int,
        draw_items: DrawItems,
        seed: int,
    ) -> None:
        """Take K, H + 1, and how items are drawn, to tell numbers from each other by their size."""
        self.rank, self.world_size = shards.rank, shards.world_size
        self.bytes_sent: dict[str, int] = {}
        self._shards, self._draw_items = shards, draw_items
        self._num_centers, self._longest_list = num_centers, longest_list
        self._seed, self._random = seed, np.random.default_rng(seed)

    def swap(self, what: str, rows: Tensor, sent: Sequence[int], expected: Sequence[int]) -> Tensor:
        """Return invented rows of the peers, with this rank's own part among them."""
        self._count(what, rows, len(rows) - sent[self.rank])
        own = torch.split(rows, list(sent))[self.rank]
        if what == "tables":
            return torch.cat(self._tables(torch.split(rows, list(sent))))
        found = rows.new_empty(sum(expected), *rows.shape[1:])
        before = sum(expected[: self.rank])
        if what == "ids":
            found.copy_(torch.from_numpy(self._wanted_ids(expected)))
        else:
            self._fill(found, rows)
        found[before : before + len(own)] = own
        return found

    def swap_counts(self, counts: Sequence[int]) -> list[int]:
        """Return the same counts: the load is symmetric."""
        return list(counts)

    def gather(self, what: str, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the own rows among invented ones; integers are items that others read."""
        copies = rows.expand(self.world_size, *rows.shape).flatten(0, 1)  # as large as in `Peers`
        self._count(what, copies, len(copies) - len(rows))
        found = rows.new_empty(sum(counts), *rows.shape[1:])
        if rows.dtype == torch.int64:
            found.copy_(torch.from_numpy(self._draw_items(self._random, found.numel())))
        else:
            self._fill(found, copies)
        before = sum(counts[: self.rank])
        found[before : before + len(rows)] = rows
        return found

    def sum(self, what: str, tensor: Tensor) -> Tensor:
        """Add what the peers would add, in place.

        Each score of a target has one owner: where this rank gives 0, another rank's is invented,
        the same in every call. Anything else is this rank's, shuffled, from each of the others.
        """
        self._count(what, tensor, len(tensor))
        if what == "ranking" and tensor.is_floating_point():
            other = np.random.default_rng(self._seed).standard_normal(tensor.shape, np.float32)
            return tensor.add_(torch.from_numpy(other).to(tensor) * (tensor == 0))
        tensor.add_((self.world_size - 1) * self._shuffled(tensor))
        if what == "ranking" and tensor.dim() == 3:
            tensor[1].clamp_(min=1)  # a target equals itself, where its owner counts
        return tensor

    def max(self, what: str, tensor: Tensor) -> Tensor:
        """Take the larger of each element and of one that is shuffled, in place."""
        self._count(what, tensor, len(tensor))
        return torch.maximum(tensor, self._shuffled(tensor), out=tensor)

    def _shuffled(self, tensor: Tensor) -> Tensor:
        order = torch.from_numpy(self._random.permutation(tensor.shape[-1]))
        return tensor[..., order]

    def _wanted_ids(self, expected: Sequence[int]) -> Ints:
        """Return the own items that each peer wants: distinct, ascending."""
        n = self._shards.num_own
        parts = [
            np.sort(self._random.choice(n, count, replace=count > n, shuffle=False))
            for count in expected
        ]
        return np.concatenate(parts) + self._shards.first

    def _fill(self, found: Tensor, like: Tensor) -> None:
        """Fill `found` with numbers such as those of `like`."""
        if found.is_floating_point() and found.dim() > 1:
            scale = like.square().mean().sqrt().nan_to_num().item()
            generator = torch.Generator().manual_seed(int(self._random.integers(2**62)))
            found.normal_(0.0, scale, generator=generator)
        elif len(found) and not found.is_floating_point() and like.max() > self._longest_list:
            drawn = self._random.integers(self._shards.num_items, size=len(found))
            found.copy_(torch.from_numpy(drawn))  # columns of an item graph
        elif len(found):  # its weights, or the lengths of its lists
            found.copy_(like[torch.from_numpy(self._random.integers(len(like), size=len(found)))])

    def _tables(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return as many entries (row, column, weight) of each peer as this rank sends to it."""
        sent = {rank: part for rank, part in enumerate(parts) if len(part) and rank != self.rank}
        batches = {rank: batch_of_bytes(part) for rank, part in sent.items()}
        tops = [batch.column(0).to_numpy().max() for batch in batches.values()]
        of_centers = max(tops, default=0) < self._num_centers
        return [
            self._entries_of(rank, batches[rank], of_centers) if rank in batches else part
            for rank, part in enumerate(parts)
        ]

    def _entries_of(self, rank: int, batch: pa.RecordBatch, of_centers: bool) -> Tensor:
        """Return a peer's entries in own columns, as many as there are in `batch`.

        Those of O are in rows of the peer's items, and those of C Ahat keep their centers.
        """
        row, _, weight = batch.columns
        drawn_from = self.rank if of_centers else rank
        first, last = self._shards.bounds[drawn_from : drawn_from + 2]
        drawn = pa.array(self._random.integers(first, last, size=len(batch)))
        drawn = drawn.cast(batch.schema.field(0).type)
        parts = [row, drawn, weight] if of_centers else [drawn, row, weight]
        invented = pa.record_batch(parts, schema=batch.schema)
        return torch.frombuffer(bytearray(bytes_of_batch(invented)), dtype=torch.uint8)
