"""Groups of actors for a job, which may leave them to the next job of the same command.

So a command loads the model once. For a large catalogue that takes minutes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import NamedTuple

import ray

from evaluation.actors.group import Group
from evaluation.actors.model_actor import Job, ModelActor
from mdsrec.run_paths import RunPaths


class Kind(NamedTuple):
    """What groups have in common that can take each other's jobs."""

    run: str  # URI
    size: int
    use_gpu: bool


class _Left:
    """Groups that wait for the next job, by kind, if one is expected."""

    is_expected = False
    groups: dict[Kind, list[Group]] = {}  # noqa: RUF012 (one for the process)


@contextmanager
def keeping_groups() -> Iterator[None]:
    """Leave the groups of a job within to the next job, and end them after the last one."""
    _Left.is_expected = True
    try:
        yield
    finally:
        _Left.is_expected = False
        for kind in [*_Left.groups]:
            _end_left(kind)


def _end_left(kind: Kind) -> None:
    """End all groups of a kind that were left, also if one cannot be ended."""
    with ExitStack() as stack:
        for group in _Left.groups.pop(kind, []):
            stack.callback(group.kill)


class JobGroups:
    """Starts the groups of one job, and leaves them to the next one."""

    def __init__(self, job: Job, use_gpu: bool) -> None:
        self._job = ray.put(job)  # its options may be large, and there may be many groups
        run, size = RunPaths.of(job.experiment).uri, job.experiment.eval.item_shards
        self._kind = Kind(run, size, use_gpu)
        self._timeout = timedelta(minutes=job.experiment.train.timeout_minutes)

    def start(self) -> Group:
        """Start the job on a group that was left, or on a new one.

        Groups that it cannot take are ended first: they may hold the CPUs or GPUs that it needs.
        """
        for other in [kind for kind in _Left.groups if kind != self._kind]:
            _end_left(other)
        if left := _Left.groups.get(self._kind):
            group = left.pop()
            group.call("ready", None, self._job)
            return group
        _, size, use_gpu = self._kind
        return Group(ModelActor, size, use_gpu, self._timeout, self._job)

    def end(self, group: Group) -> None:
        """End a group that lost an actor, and those that were left: they may have lost theirs."""
        with ExitStack() as stack:
            stack.callback(_end_left, self._kind)
            group.kill()

    def leave(self, group: Group) -> None:
        """Leave a group that has done its part to the next job; end it if none is expected."""
        if _Left.is_expected:
            _Left.groups.setdefault(self._kind, []).append(group)
        else:
            group.kill()
