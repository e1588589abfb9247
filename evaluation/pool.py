"""Tables made on Ray in shards: one Parquet part per shard, written by a pool of actors.

A shard is a fixed range of users (or items) and its part has a fixed name. Therefore the table has
the same bytes for any number of workers, a lost worker's shard can be given to another one, and a
restart continues with the parts that are missing.
"""

import io
import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from pyarrow import fs
from ray.exceptions import RayActorError

from evaluation.progress import Progress
from mdsrec import files, tables
from mdsrec.command.heartbeat import heartbeat
from mdsrec.config import Experiment
from mdsrec.config.training import BATCHES_PER_SHARD
from mdsrec.errors import InputError
from mdsrec.tables import Manifest, Recipe
from training.data.sequences import SequenceReader
from training.distributed.ray_session import ray_session, uses_gpu
from training.inference import load_trained

MOST_PARTS = 100_000  # of five digits
PART = re.compile(r"part-(\d{5,})\.parquet")
SPARE_ACTORS = 3  # a job survives the loss of this many actors plus one per worker

log = logging.getLogger("evaluation")


class Shard(NamedTuple):
    """Users (or items) [first, last): one Parquet part, a file `part-NUMBER.parquet`."""

    number: int
    first: int
    last: int


def shards_of(total: int, user_batch: int) -> list[Shard]:
    """Divide all users or items into shards of BATCHES_PER_SHARD batches.

    The last one may be shorter. InputError if their numbers need more digits than the names of
    parts have, because a table is read in the order of its files' names.
    """
    size = BATCHES_PER_SHARD * user_batch
    starts = range(0, total, size)
    if len(starts) > MOST_PARTS:
        least = -(-total // (BATCHES_PER_SHARD * MOST_PARTS))
        raise InputError(
            f"eval.user_batch = {user_batch}: {total:,} rows would be {len(starts):,} files of "
            f"{size:,} rows, at most {MOST_PARTS:,} are ordered by name: set it to at least {least}"
        )
    return [Shard(i, first, min(first + size, total)) for i, first in enumerate(starts)]


class ShardWorker:
    """An actor that holds the trained model, and writes one part per shard.

    `weight_of` are the weights of the channels. Subclasses define `rows`; `options` are theirs.
    """

    kind = "users"  # of which a shard has a range

    def __init__(
        self, experiment: Experiment, weight_of: Mapping[str, float], options: Any = None
    ) -> None:
        torch.set_num_threads(1)
        self.experiment, self.options = experiment, options
        self.reader = self.open_reader(experiment)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self.trained = replace(load_trained(experiment, device), weight_of=weight_of)

    @classmethod
    def open_reader(cls, experiment: Experiment) -> SequenceReader:
        """Open the table whose rows are the users."""
        return SequenceReader(experiment)

    @classmethod
    def total(cls, experiment: Experiment) -> int:
        """Return the number of all users (or items)."""
        return cls.open_reader(experiment).num_users

    def ready(self) -> int:
        """Return at once. A result means that the actor has started and loaded the model."""
        return 0

    def rows(self, shard: Shard) -> pa.Table:
        """Return the rows of the table for a shard."""
        raise NotImplementedError

    def write_part(self, shard: Shard, version: str) -> int:
        """Write the part of a shard into the folder `version`, atomically -> number of rows."""
        rows, content = self.rows(shard), io.BytesIO()
        pq.write_table(rows, content, compression="zstd")
        files.write_bytes(f"{version}/part-{shard.number:05d}.parquet", content.getvalue())
        return int(rows.num_rows)


class AskedWorker(ShardWorker):
    """An actor that answers one question about the trained model."""

    def answer(self) -> Any:
        """Return the answer."""
        raise NotImplementedError


def write_table_in_shards(
    experiment: Experiment,
    weight_of: Mapping[str, float],
    worker: type[ShardWorker],
    uri: str,
    recipe: Recipe,
    verb: str,
    options: Any = None,
) -> Manifest:
    """Make the table at `uri` with actors of class `worker`, and commit it.

    Parts that an earlier start of the same recipe wrote are kept. `verb` says what is done to
    users or items in the progress: scored, ranked, served.
    """
    version = f"{uri}/{recipe.fingerprint[:12]}"
    filesystem, path = files.file_system(version)
    filesystem.create_dir(path, recursive=True)
    total, kind = worker.total(experiment), worker.kind
    num_rows = _rows_of_parts(version)
    missing = [s for s in shards_of(total, experiment.eval.user_batch) if s.number not in num_rows]
    num_missing = sum(shard.last - shard.first for shard in missing)
    if num_missing < total:
        log.info(f"{total - num_missing:,} of {total:,} {kind} were {verb} before")
    num_workers = min(experiment.eval.num_workers, len(missing))
    heartbeat.begin(f"{kind} are {verb}")
    with (
        ray_session(),
        Pool(worker, num_workers, experiment, weight_of, options) as pool,
        Progress(num_missing, kind, verb, experiment.name) as progress,
    ):
        for shard, count in pool.run(missing, version):
            num_rows[shard.number] = count
            progress.advance(shard.last - shard.first)
        seconds = progress.seconds
    counters = {kind: total, "seconds": round(seconds, 3)}
    return tables.commit(uri, version, recipe, sum(num_rows.values()), counters)


def _rows_of_parts(version: str) -> dict[int, int]:
    """Return the number of rows of each readable part in `version`, by shard number."""
    filesystem, path = files.file_system(version)
    num_rows = {}
    for info in filesystem.get_file_info(fs.FileSelector(path)):
        name = PART.fullmatch(info.base_name)
        with suppress(OSError, pa.ArrowException):  # a truncated part is written again
            if name:
                metadata = pq.read_metadata(info.path, filesystem=filesystem)
                num_rows[int(name[1])] = int(metadata.num_rows)
    return num_rows


def ask_worker(worker: type[AskedWorker], experiment: Experiment, *arguments: Any) -> Any:
    """Return `answer` of one actor of class `worker`; it is started again if it is lost.

    `arguments` are the weights of the channels, then the options.
    """
    with ray_session():
        lives = {"max_restarts": SPARE_ACTORS, "max_task_retries": SPARE_ACTORS}
        resources = {"num_cpus": 1, "num_gpus": int(uses_gpu(experiment))}
        actor = ray.remote(**resources, **lives)(worker).remote(experiment, *arguments)
        try:
            return ray.get(actor.answer.remote())
        finally:
            ray.kill(actor)


class Pool:
    """A pool of actors that write parts.

    A shard is given only to an actor that has started. Therefore a cluster that has room for fewer
    actors than requested still completes the job.
    """

    def __init__(
        self,
        worker: type[ShardWorker],
        num_workers: int,
        experiment: Experiment,
        weight_of: Mapping[str, float],
        options: Any,
    ) -> None:
        self._actor_class = ray.remote(num_cpus=1, num_gpus=int(uses_gpu(experiment)))(worker)
        self._arguments = experiment, weight_of, options
        self._losses_left = num_workers + SPARE_ACTORS
        # Actor and shard of each pending call. The shard is None while the actor starts.
        self._running: dict[Any, tuple[Any, Shard | None]] = {}
        for _ in range(num_workers):
            self._start_actor()

    def __enter__(self) -> Self:
        """Wait for the first actor, so that its start is not counted as working time."""
        if self._running:
            ray.wait(list(self._running), num_returns=1)
        return self

    def __exit__(self, *_: object) -> None:
        for actor, _shard in self._running.values():
            ray.kill(actor)

    def run(self, shards: Sequence[Shard], version: str) -> Iterator[tuple[Shard, int]]:
        """Write the part of every shard; yield each shard and its number of rows when it is done.

        An actor is killed when no shard is left for it.
        """
        waiting, num_left = deque(shards), len(shards)
        while num_left:
            [finished], _ = ray.wait(list(self._running), num_returns=1)
            actor, shard = self._running.pop(finished)
            try:
                num_rows = ray.get(finished)
            except RayActorError as error:
                self._replace_actor(error)
                if shard is not None:
                    waiting.appendleft(shard)
                continue
            if shard is not None:
                num_left -= 1
                yield shard, num_rows
            if not waiting:
                ray.kill(actor)
                continue
            following = waiting.popleft()
            self._running[actor.write_part.remote(following, version)] = (actor, following)

    def _start_actor(self) -> None:
        actor = self._actor_class.remote(*self._arguments)
        self._running[actor.ready.remote()] = (actor, None)

    def _replace_actor(self, error: RayActorError) -> None:
        """Start a new actor for a lost one. An actor that failed to load the run is an error."""
        if error.actor_init_failed or not self._losses_left:
            raise error
        self._losses_left -= 1
        log.warning("lost a worker process, starting another")
        self._start_actor()
