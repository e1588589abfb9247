"""Shards given out to Ray actors; a lost actor's shard goes to another, under its fixed name."""

import io
import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from pyarrow import fs
from ray.exceptions import RayActorError

from evaluation.progress import Progress
from evaluation.shards import Shard, shards_of
from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.tables import Manifest, Recipe
from training.data.sequences import SequenceReader
from training.distributed.ray_session import ray_session, uses_gpu
from training.inference import load_trained

PART = re.compile(r"part-(\d{5,})\.parquet")
SPARE_ACTORS = 3  # lost actors that a job survives, beyond one for each worker

log = logging.getLogger("evaluation")


class ShardWorker:
    """One process with the trained model and all item vectors; what it makes of a shard is `rows`.

    `options` are the work's own.
    """

    def __init__(self, experiment: Experiment, options: Any = None) -> None:
        torch.set_num_threads(1)
        self.experiment, self.options = experiment, options
        self.reader = SequenceReader(experiment)
        self.trained = load_trained(
            experiment, torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        )
        self.items = self.trained.item_vectors()

    def ready(self) -> int:
        """Returns once the actor stands."""
        return 0

    def rows(self, shard: Shard) -> pa.Table:
        raise NotImplementedError

    def make(self, shard: Shard, version: str) -> int:
        """Write the part of `shard` below `version`, all or nothing -> number of its rows."""
        rows, content = self.rows(shard), io.BytesIO()
        pq.write_table(rows, content, compression="zstd")
        files.write_bytes(f"{version}/part-{shard.number:05d}.parquet", content.getvalue())
        return int(rows.num_rows)


def made_by_shards(
    experiment: Experiment,
    worker: type[ShardWorker],
    uri: str,
    recipe: Recipe,
    done: str,
    options: Any = None,
) -> Manifest:
    """Let workers on Ray make the table at `uri`, a shard of users at a time, and commit it.

    Shards that an earlier start of the same recipe made are kept. `done` says in the progress what
    users are.
    """
    version = f"{uri}/{recipe.fingerprint[:12]}"
    filesystem, path = files.file_system(version)
    filesystem.create_dir(path, recursive=True)
    users = SequenceReader(experiment).num_users
    shards = shards_of(users, experiment.eval.user_batch)
    rows_of = _standing(version)
    left = [shard for shard in shards if shard.number not in rows_of]
    num_left = sum(shard.last - shard.first for shard in left)
    if num_left < users:
        log.info(f"{users - num_left:,} of {users:,} users were {done} before")
    num_workers = min(experiment.eval.num_workers, len(left))
    with ray_session(), Pool(worker, experiment, num_workers, options) as pool:
        progress = Progress(num_left, done, experiment.name)
        for shard, count in pool.make(left, version):
            rows_of[shard.number] = count
            progress.advance(shard.last - shard.first)
        seconds = progress.seconds
    counters = {"users": users, "seconds": round(seconds, 3)}
    return tables.commit(uri, version, recipe, sum(rows_of.values()), counters)


def _standing(version: str) -> dict[int, int]:
    """Rows of each part below `version` that is whole, by the number of its shard."""
    filesystem, path = files.file_system(version)
    rows_of = {}
    for info in filesystem.get_file_info(fs.FileSelector(path)):
        name = PART.fullmatch(info.base_name)
        with suppress(OSError, pa.ArrowException):
            if name:
                rows = pq.read_metadata(info.path, filesystem=filesystem).num_rows
                rows_of[int(name[1])] = int(rows)
    return rows_of


class Pool:
    """Actors that make shards. A shard is given only to an actor that has started, so a cluster too
    small for every worker goes on with those it can hold."""

    def __init__(
        self, worker: type[ShardWorker], experiment: Experiment, num_workers: int, options: Any
    ) -> None:
        self._actor = ray.remote(num_cpus=1, num_gpus=int(uses_gpu(experiment)))(worker)
        self._arguments = experiment, options
        self._losses_left = num_workers + SPARE_ACTORS
        self._running: dict[Any, tuple[Any, Shard | None]] = {}
        for _ in range(num_workers):
            self._start()

    def __enter__(self) -> Self:
        """Waits for the first actor, so that what follows is the work alone."""
        if self._running:
            ray.wait(list(self._running), num_returns=1)
        return self

    def __exit__(self, *_: object) -> None:
        for actor, _shard in self._running.values():
            ray.kill(actor)

    def make(self, shards: Sequence[Shard], version: str) -> Iterator[tuple[Shard, int]]:
        """Make every shard once; each shard and its number of rows as it is done."""
        waiting, left = deque(shards), len(shards)
        while left:
            [finished], _ = ray.wait(list(self._running), num_returns=1)
            actor, shard = self._running.pop(finished)
            try:
                num_rows = ray.get(finished)
            except RayActorError as error:
                self._replace(error)
                if shard is not None:
                    waiting.appendleft(shard)
                continue
            if shard is not None:
                left -= 1
                yield shard, num_rows
            if not waiting:
                ray.kill(actor)
                continue
            following = waiting.popleft()
            self._running[actor.make.remote(following, version)] = (actor, following)

    def _start(self) -> None:
        actor = self._actor.remote(*self._arguments)
        self._running[actor.ready.remote()] = (actor, None)

    def _replace(self, error: RayActorError) -> None:
        """A new actor for one whose process was lost; one that cannot load the run is an error."""
        if error.actor_init_failed or not self._losses_left:
            raise error
        self._losses_left -= 1
        log.warning("a worker was lost, another takes its place")
        self._start()
