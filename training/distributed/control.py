"""What the ranks tell one another on the CPU, beside the collectives of the training itself.

A group of its own: no message waits for a GPU, and none is mixed up with DeepSpeed's. A single rank
has nobody to ask.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from mdsrec.errors import InputError

log = logging.getLogger("training")

Told = TypeVar("Told")


class JointError(InputError):
    """What the user can mend, found by every rank at the same point: a restart finds it again."""


class Ranks:
    def __init__(self, timeout_minutes: float) -> None:
        """What waits longer than the time-out fails, and with it the attempt."""
        self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
        self._group = (
            distributed.new_group(backend="gloo", timeout=timedelta(minutes=timeout_minutes))
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

    def told_by_first(self, told: Told) -> Told:
        """What rank 0 tells, on every rank."""
        box = [told]
        if self._group is not None:
            distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def told_by_any(self, told: str | None) -> str | None:
        """What the first rank tells that tells anything, on every rank."""
        boxes: list[str | None] = [told] * self.world_size
        if self._group is not None:
            distributed.all_gather_object(boxes, told, group=self._group)
        return next((box for box in boxes if box is not None), None)
