"""Control messages between the ranks, on the CPU, apart from the collectives of the training.

They have a process group of their own. So a message never waits for a GPU and is never matched
with a collective of DeepSpeed. With one rank nothing is sent.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from mdsrec.errors import InputError

log = logging.getLogger("training")

T = TypeVar("T")


class CollectiveInputError(InputError):
    """An InputError that every rank raises at the same point; a restart would raise it again."""


class ControlGroup:
    """A gloo process group of all ranks. Its methods are collective, except `log_once`."""

    def __init__(self, timeout_minutes: float) -> None:
        """Create the group. A call that waits longer than the time-out raises, which ends the
        attempt.
        """
        self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
        self._group = (
            distributed.new_group(backend="gloo", timeout=timedelta(minutes=timeout_minutes))
            if self.world_size > 1
            else None
        )

    def start_any(self, flags: Sequence[bool]) -> Callable[[], list[bool]]:
        """Start an all-reduce of this rank's flags and return a function that waits for it.

        That function returns, for each flag, whether it is set on any rank.
        """
        raised = torch.tensor(flags, dtype=torch.int32)
        work = (
            distributed.all_reduce(
                raised, distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
            if self._group is not None
            else None
        )

        def wait() -> list[bool]:
            if work is not None:
                work.wait()
            return [bool(flag) for flag in raised.tolist()]

        return wait

    def all(self, condition: bool) -> bool:
        """Return True if the condition holds on every rank."""
        (failed,) = self.start_any([not condition])()
        return not failed

    def broadcast_from_first(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        box = [value]
        if self._group is not None:
            distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in order."""
        values = [value] * self.world_size
        if self._group is not None:
            distributed.all_gather_object(values, value, group=self._group)
        return values

    def first_message(self, message: str | None) -> str | None:
        """Return, on every rank, the message of the lowest rank that has one; None if none has."""
        return next((found for found in self.gather(message) if found is not None), None)

    def log_once(self, line: str) -> None:
        """Log a line on rank 0."""
        if self.rank == 0:
            log.info("%s", line)
