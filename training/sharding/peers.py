"""Collectives of all ranks, whose bytes are counted.

W ranks. With one rank nothing is sent.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, ReduceOp


class Peers:
    """All ranks of a process group. Methods are collective, but for `take_bytes_sent`."""

    def __init__(
        self, group: ProcessGroup | None = None, on_host: ProcessGroup | None = None
    ) -> None:
        """Use `group`, or the default group; `on_host` for numbers, which are in host memory."""
        self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
        self.bytes_sent: dict[str, int] = {}  # by what for
        self._group, self._on_host = group, on_host

    def swap(self, what: str, rows: Tensor, sent: Sequence[int], expected: Sequence[int]) -> Tensor:
        """Send `sent[r]` of the rows to rank r; return those of rank 0, 1, ... (all-to-all).

        `expected[r]` is how many rank r sends.
        """
        if self.world_size == 1:
            return rows
        self._count(what, rows, len(rows) - sent[self.rank])
        found = rows.new_empty(sum(expected), *rows.shape[1:])
        distributed.all_to_all_single(
            found, rows.contiguous(), list(expected), list(sent), group=self._group
        )
        return found

    def swap_counts(self, counts: Sequence[int]) -> list[int]:
        """Exchange one number with each rank (all-to-all)."""
        if self.world_size == 1:
            return list(counts)
        sent = torch.tensor(counts)
        found = torch.empty_like(sent)
        distributed.all_to_all_single(found, sent, group=self._on_host)
        return found.tolist()

    def gather(self, what: str, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows of all ranks (all-gather), of which rank r has `counts[r]`."""
        copies = rows.expand(self.world_size, *rows.shape).flatten(0, 1)
        return self.swap(what, copies, [len(rows)] * self.world_size, counts)

    def gather_counts(self, count: int) -> list[int]:
        """Return a number of each rank (all-gather)."""
        return self.swap_counts([count] * self.world_size)

    def sum(self, what: str, tensor: Tensor) -> Tensor:
        """Add up a tensor over the ranks (all-reduce), in place."""
        return self._reduce(what, tensor, ReduceOp.SUM)

    def max(self, what: str, tensor: Tensor) -> Tensor:
        """Take the largest of each element over the ranks, in place."""
        return self._reduce(what, tensor, ReduceOp.MAX)

    def take_bytes_sent(self) -> dict[str, int]:
        """Return the bytes that this rank sent since the last call, by what they were for."""
        sent, self.bytes_sent = self.bytes_sent, {}
        return sent

    def _reduce(self, what: str, tensor: Tensor, operation: ReduceOp.RedOpType) -> Tensor:
        if self.world_size > 1:
            self._count(what, tensor, len(tensor))
            distributed.all_reduce(tensor, operation, group=self._group)
        return tensor

    def _count(self, what: str, rows: Tensor, num_rows: int) -> None:
        sent = num_rows * rows[:1].numel() * rows.element_size()
        self.bytes_sent[what] = self.bytes_sent.get(what, 0) + sent
