"""Groups of actors for a job, which may leave them to the next job of the same command.

So a command loads the model once. For a large catalogue that takes minutes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any, NamedTuple

import ray

from evaluation.actors.group import Group
from evaluation.actors.model_actor import Job, ModelActor
from mdsrec.run_paths import RunPaths


class Kind(NamedTuple):
    """Properties of a group: another one with the same can take its jobs."""

    run: str  # URI
    size: int
    use_gpu: bool


class _Left:
    """Groups of one kind that wait for the next job of this process, if one is expected."""

    is_expected = False
    kind: Kind | None = None
    groups: list[Group] = []  # noqa: RUF012 (there is one)


@contextmanager
def keeping_groups() -> Iterator[None]:
    """Leave the groups of a job within to the next job, and end them after the last one."""
    _Left.is_expected = True
    try:
        yield
    finally:
        _Left.is_expected = False
        _end_left()


def _end_left() -> None:
    """End all groups that were left, also if one cannot be ended."""
    groups, _Left.groups = _Left.groups, []
    with ExitStack() as stack:
        for group in groups:
            stack.callback(group.kill)


class JobGroups:
    """Starts the groups of one job, and leaves them to the next one."""

    def __init__(self, job: Job, use_gpu: bool) -> None:
        self._given = job
        run, size = RunPaths.of(job.experiment).uri, job.experiment.eval.item_shards
        self._kind = Kind(run, size, use_gpu)
        self._timeout = timedelta(minutes=job.experiment.train.timeout_minutes)

    @cached_property
    def _job(self) -> Any:
        """Return a reference to the job: its options may be large, and there may be many groups."""
        return ray.put(self._given)

    def start(self) -> Group:
        """Start the job on a group that was left, or on a new one.

        Groups that it cannot take are ended first: they may hold the CPUs or GPUs that it needs.
        """
        if _Left.kind != self._kind:
            _end_left()
        if _Left.groups:
            group = _Left.groups.pop()
            group.call("ready", None, self._job)
            return group
        _, size, use_gpu = self._kind
        return Group(ModelActor, size, use_gpu, self._timeout, self._job)

    def end(self, group: Group) -> None:
        """End a group that lost an actor, and those that were left: they may have lost theirs."""
        with ExitStack() as stack:
            stack.callback(_end_left)
            group.kill()

    def leave(self, group: Group) -> None:
        """Leave a group that has done its part to the next job; end it if none is expected."""
        if _Left.is_expected:
            _Left.kind = self._kind
            _Left.groups.append(group)
        else:
            group.kill()
