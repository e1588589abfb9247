"""Tables made on Ray in shards: one Parquet part per shard, written by a pool of actors.

A shard is a fixed range of users (or items) and the name of its part has its number. Therefore the
table has the same bytes for any number of workers, a lost worker's shard can be given to another
one, and a restart continues with the parts that are missing.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self

import ray

from evaluation.actors.group import Group, LostActorError
from evaluation.actors.job_groups import JobGroups
from evaluation.actors.model_actor import Job
from evaluation.actors.parts import rows_of_parts
from evaluation.actors.shard_worker import AskedWorker, Shard, ShardWorker
from evaluation.progress import Progress
from mdsrec import files, tables
from mdsrec.command.heartbeat import heartbeat
from mdsrec.config import Experiment
from mdsrec.config.training import BATCHES_PER_SHARD, EvalConfig
from mdsrec.errors import InputError
from mdsrec.jobs import promises
from mdsrec.tables import Manifest, Recipe
from training.distributed.ray_session import capacity, ray_session, uses_gpu

MOST_PARTS = 100_000  # of five digits
NUM_WORKERS = 2  # actors, where neither the configuration nor the cluster says it
SPARE_ACTORS = 3  # a job survives the loss of this many groups of actors plus one per group

log = logging.getLogger("evaluation")


def shards_of(total: int, settings: EvalConfig) -> list[Shard]:
    """Divide all users or items into shards of whole batches.

    The last one may be shorter. InputError if their numbers need more digits than the names of
    parts have, because a table is read in the order of its files' names.
    """
    size, batch = settings.users_per_shard(total), settings.users_together
    starts = range(0, total, size)
    if len(starts) > MOST_PARTS:
        least = -(-total // (BATCHES_PER_SHARD * MOST_PARTS))
        raise InputError(
            f"eval.user_batch = {batch}: {total:,} rows would be {len(starts):,} files of "
            f"{size:,} rows, at most {MOST_PARTS:,} are ordered by name: set it to at least {least}"
        )
    return [Shard(i, first, min(first + size, total)) for i, first in enumerate(starts)]


def write_table_in_shards(
    experiment: Experiment,
    weight_of: Mapping[str, float],
    worker: type[ShardWorker],
    uri: str,
    recipe: Recipe,
    verb: str,
    options: Any = None,
) -> Manifest:
    """Make the table at `uri` with actors that have the `worker`, and commit it.

    Parts that an earlier start of the same recipe wrote are kept, if that start had the same batch
    and block sizes. `verb` says what is done to users or items in the progress: scored, ranked,
    served.
    """
    with ray_session():
        sized = experiment.sized_for(uses_gpu(experiment))
        version = f"{uri}/{version_of(recipe, sized.eval)}"
        rows, counters = _write_parts(sized, weight_of, worker, version, verb, options)
    return tables.commit(uri, version, recipe, rows, counters)


def version_of(recipe: Recipe, settings: EvalConfig) -> str:
    """Return the name of the version folder, another one for other batch and block sizes."""
    sizes = {"users": settings.users_together, "items": settings.items_together}
    return Recipe({"recipe": recipe.fingerprint, **sizes}, {}).fingerprint[:12]


def _write_parts(
    experiment: Experiment,
    weight_of: Mapping[str, float],
    worker: type[ShardWorker],
    version: str,
    verb: str,
    options: Any,
) -> tuple[int, dict[str, Any]]:
    """Write the parts that are missing -> the rows of all parts, and counters."""
    filesystem, path = files.file_system(version)
    filesystem.create_dir(path, recursive=True)
    total, kind = worker.total(experiment), worker.kind
    num_rows = rows_of_parts(version)
    missing = [s for s in shards_of(total, experiment.eval) if s.number not in num_rows]
    num_missing = sum(shard.last - shard.first for shard in missing)
    if num_missing < total:
        log.info(f"{total - num_missing:,} of {total:,} {kind} were {verb} before")
    heartbeat.begin(f"{kind} are {verb}")
    with (
        Pool(worker, _num_groups(experiment, len(missing)), experiment, weight_of, options) as pool,
        Progress(num_missing, kind, verb, experiment.name) as progress,
    ):
        for shard, count in pool.run(missing, version):
            num_rows[shard.number] = count
            progress.advance(shard.last - shard.first)
        seconds = progress.seconds
    return sum(num_rows.values()), {kind: total, "seconds": round(seconds, 3)}


def _num_groups(experiment: Experiment, num_missing: int) -> int:
    """Return how many groups of actors write the missing parts."""
    num_gpus = int(capacity()["GPU"]) if uses_gpu(experiment) else 0
    num_workers = experiment.eval.num_workers or num_gpus or NUM_WORKERS
    return min(max(1, num_workers // experiment.eval.item_shards), num_missing)


def ask_worker(
    worker: type[AskedWorker], experiment: Experiment, weight_of: Mapping[str, float], options: Any
) -> Any:
    """Return `answer` of actors with the `worker`; they are started again if one is lost."""
    with ray_session():
        groups = _groups_of(worker, experiment, weight_of, options)
        for _ in range(SPARE_ACTORS):
            with suppress(LostActorError):
                return _answer(groups)
        return _answer(groups)


def _answer(groups: JobGroups) -> Any:
    group = groups.start()
    try:
        group.wait()
        group.call("answer")
        answer = group.wait()[0]
    except BaseException:
        groups.end(group)
        raise
    groups.leave(group)
    return answer


def _groups_of(
    worker: type[ShardWorker], experiment: Experiment, weight_of: Mapping[str, float], options: Any
) -> JobGroups:
    """Return the groups of a job. InputError if the cluster can never hold one."""
    size, use_gpu = experiment.eval.item_shards, uses_gpu(experiment)
    most = capacity()["GPU" if use_gpu else "CPU"] if size > 1 else 1
    if size > most:
        raise InputError(
            f"eval.item_shards = {size}: needs as many {'GPUs' if use_gpu else 'CPUs'}, the "
            f"cluster has {most:g}: lower eval.item_shards or add nodes"
        )
    job = Job(worker, experiment, weight_of, options, promises.current())
    return JobGroups(job, use_gpu)


class Pool:
    """A pool of groups of actors that write parts.

    A shard is given only to a group that has started. Therefore a cluster that has room for fewer
    groups than requested still completes the job.
    """

    def __init__(
        self,
        worker: type[ShardWorker],
        num_groups: int,
        experiment: Experiment,
        weight_of: Mapping[str, float],
        options: Any,
    ) -> None:
        self._groups = _groups_of(worker, experiment, weight_of, options)
        self._losses_left = num_groups + SPARE_ACTORS
        self._shard_of: dict[Group, Shard | None] = {}  # None while a group starts
        with ExitStack() as started:
            started.push(self.__exit__)
            for _ in range(num_groups):
                self._shard_of[self._groups.start()] = None
            started.pop_all()

    def __enter__(self) -> Self:
        """Wait for the first actor, so that its start is not counted as working time."""
        if self._shard_of:
            ray.wait(list(self._group_of_call()), num_returns=1)
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._shard_of:
            group.kill()

    def run(self, shards: Sequence[Shard], version: str) -> Iterator[tuple[Shard, int]]:
        """Write the part of every shard; yield each shard and its number of rows when it is done.

        A group that no shard is left for is left to the next job.
        """
        waiting, num_left = deque(shards), len(shards)
        while num_left:
            group_of = self._group_of_call()
            [finished], _ = ray.wait(list(group_of), num_returns=1)
            group = group_of[finished]
            try:
                num_rows = group.take(finished)
            except LostActorError as error:
                if (shard := self._replace(group, error)) is not None:
                    waiting.appendleft(shard)
                continue
            if num_rows is None:  # of the other actors of the group
                continue
            if (shard := self._shard_of[group]) is not None:
                num_left -= 1
                yield shard, sum(num_rows)
            if waiting:
                self._shard_of[group] = waiting.popleft()
                group.call("write_part", self._shard_of[group], version)
            else:
                del self._shard_of[group]
                self._groups.leave(group)

    def _group_of_call(self) -> dict[Any, Group]:
        return {call: group for group in self._shard_of for call in group.unfinished}

    def _replace(self, group: Group, error: LostActorError) -> Shard | None:
        """Start a new group for one that lost an actor, and return the shard of the old one."""
        if not self._losses_left:
            raise error
        self._losses_left -= 1
        log.warning("lost a worker process, starting another")
        self._groups.end(group)
        self._shard_of[self._groups.start()] = None
        return self._shard_of.pop(group)
