"""What the ranks tell one another on the CPU, beside the collectives of the training itself.

A group of its own: no message waits for a GPU, and none is mixed up with DeepSpeed's. A single rank
has nobody to ask.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
from torch import distributed

from mdsrec.errors import InputError

log = logging.getLogger("training")

TIMEOUT_S = 600  # a collective that waits longer fails, and with it the attempt


class JointError(InputError):
    """What the user can mend, found by every rank at the same point: a restart finds it again."""


class Ranks:
    def __init__(self) -> None:
        self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
        self._group = (
            distributed.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT_S))
            if self.world_size > 1
            else None
        )

    def ask(self, flags: Sequence[bool]) -> Callable[[], list[bool]]:
        """Send this rank's flags -> a function that waits for which of them any rank raised."""
        raised = torch.tensor(flags, dtype=torch.int32)
        sent = (
            distributed.all_reduce(
                raised, distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
            if self._group is not None
            else None
        )

        def answer() -> list[bool]:
            if sent is not None:
                sent.wait()
            return [bool(flag) for flag in raised.tolist()]

        return answer

    def all(self, holds: bool) -> bool:
        """Whether it holds on every rank."""
        (failed,) = self.ask([not holds])()
        return not failed

    def log(self, line: str) -> None:
        """A line in the log, once."""
        if self.rank == 0:
            log.info("%s", line)

    def told_by_first(self, text: str | None) -> str | None:
        """Rank 0's `text`, on every rank."""
        told = [text]
        if self._group is not None:
            distributed.broadcast_object_list(told, src=0, group=self._group)
        return told[0]
