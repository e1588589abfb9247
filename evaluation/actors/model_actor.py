"""A Ray actor that holds a trained model, or a share of its items, for one job after another."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from evaluation.actors.group import GroupActor, Meeting, Member
from evaluation.actors.shard_worker import AskedWorker, Shard, ShardWorker
from mdsrec.config import Experiment


class Job(NamedTuple):
    """A job for a group of actors: the arguments of its `worker`."""

    worker: type[ShardWorker]
    experiment: Experiment
    weight_of: Mapping[str, float]
    options: Any
    promised: Mapping[str, str]


class ModelActor(GroupActor):
    """An actor of a group. The jobs that it takes are about one run, which it loads once."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._worker: ShardWorker | None = None

    def ready(self, meeting: Meeting | None, job: Job) -> None:
        """Join the group at the meeting, if there is one, take the job and load the model."""
        if meeting is not None:
            self.join(meeting)
        model = None if self._worker is None else self._worker.trained
        arguments = job.experiment, job.weight_of, job.options, job.promised
        self._worker = job.worker(*arguments, self.member, model)
        assert self._worker.trained

    def write_part(self, shard: Shard, version: str) -> int:
        """Call `write_part` of the job's worker."""
        assert self._worker is not None
        return self._worker.write_part(shard, version)

    def answer(self) -> Any:
        """Call `answer` of the job's worker."""
        assert isinstance(self._worker, AskedWorker)
        return self._worker.answer()
