"""A group of Ray actors that do every task together, each with the share of its own items.

A group of one actor holds the whole model. The actors of a larger one talk by a process group of
torch, so the loss of one ends the group.
"""

import time
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import distributed

from mdsrec.errors import InputError

FAILURE_SECONDS = 5.0  # in which the calls of other actors fail for the same reason
LOSS_SECONDS = 30.0  # in which Ray finds that an actor has ended, after the call of another failed


class Member(NamedTuple):
    """The place of an actor in its group."""

    rank: int
    size: int


class Meeting(NamedTuple):
    """The address at which the actors of a group meet, and how long they wait for each other."""

    host: str
    port: int
    timeout: timedelta


class GroupActor:
    """An actor of a group. Subclasses define `ready`, and what else is called."""

    member: Member
    _store: Any = None

    def open_meeting(self, timeout: timedelta) -> Meeting:
        """Start the store at which the group meets; only the first actor does."""
        host: str = ray.util.get_node_ip_address()
        self._store = _store(Meeting(host, 0, timeout), self.member)
        return Meeting(host, self._store.port, timeout)

    def join(self, meeting: Meeting) -> None:
        """Join the process group. A collective that waits longer than the timeout fails."""
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if ray.get_gpu_ids() else "gloo",
            store=self._store or _store(meeting, self.member),
            rank=self.member.rank,
            world_size=self.member.size,
            timeout=meeting.timeout,
        )

    def ready(self, meeting: Meeting | None, job: Any) -> None:
        """Join the group at the meeting, if there is one, and load what the job needs."""
        raise NotImplementedError


def _store(meeting: Meeting, member: Member) -> Any:
    host, port, timeout = meeting
    is_first = member.rank == 0
    store = distributed.TCPStore  # type: ignore[attr-defined]
    return store(host, port, member.size, is_first, timeout, wait_for_workers=False)


class LostActorError(Exception):
    """An actor of a group has ended."""


class Group:
    """Actors that are called together. A call is made on all of them, and has a result of each."""

    def __init__(
        self,
        actor: type[GroupActor],
        size: int,
        use_gpu: bool,
        timeout: timedelta,
        job: Any,
    ) -> None:
        """Request all actors at once, and start the call of `ready` with the job."""
        resources, self._placement = {"num_cpus": 1, "num_gpus": int(use_gpu)}, None
        options: dict[str, Any] = {}
        if size > 1:
            bundle = {"CPU": 1.0} | ({"GPU": 1.0} if use_gpu else {})
            self._placement = placement_group([bundle] * size)
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._placement)
        remote = ray.remote(**resources)(actor).options(**options)
        self._actors = [remote.remote(Member(rank, size)) for rank in range(size)]
        self._rank_of: dict[Any, int] = {}  # of each unfinished call
        self._results: list[Any] = [None] * size
        meeting = self._actors[0].open_meeting.remote(timeout) if size > 1 else None
        self.call("ready", meeting, job)

    @property
    def unfinished(self) -> list[Any]:
        """Return the references of calls that were not taken."""
        return list(self._rank_of)

    def call(self, method: str, *arguments: Any) -> None:
        """Start a call on all actors. The one before must be done."""
        assert not self._rank_of
        for rank, actor in enumerate(self._actors):
            self._rank_of[getattr(actor, method).remote(*arguments)] = rank

    def take(self, call: Any) -> list[Any] | None:
        """Take the result of a finished call -> those of all actors, if it was the last of them.

        LostActorError if an actor has ended. Another error is that of the call.
        """
        rank = self._rank_of.pop(call)
        try:
            self._results[rank] = _result(call)
        except InputError:
            with suppress(LostActorError):
                self._take_failures(FAILURE_SECONDS)
            raise
        except RayTaskError:
            self._take_failures(LOSS_SECONDS)
            raise
        return None if self._rank_of else self._results

    def wait(self) -> list[Any]:
        """Return the results of all actors when the call is done."""
        while True:
            [call], _ = ray.wait(self.unfinished, num_returns=1)
            results = self.take(call)
            if results is not None:
                return results

    def kill(self) -> None:
        """End all actors."""
        for actor in self._actors:
            ray.kill(actor)
        if self._placement is not None:
            remove_placement_group(self._placement)

    def _take_failures(self, seconds: float) -> None:
        """Take the other calls that end in so many seconds after one has failed.

        LostActorError if one failed because its actor has ended: that made the others fail.
        """
        end = time.monotonic() + seconds
        while self._rank_of and (left := end - time.monotonic()) > 0:
            done, _ = ray.wait(self.unfinished, num_returns=1, timeout=left)
            for call in done:
                del self._rank_of[call]
                with suppress(InputError, RayTaskError):
                    _result(call)


def _result(call: Any) -> Any:
    """Return the result of a finished call. InputError without Ray's traceback."""
    try:
        return ray.get(call)
    except RayActorError as error:
        if error.actor_init_failed:
            raise
        raise LostActorError from error
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
