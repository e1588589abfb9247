"""Shards given out to Ray actors; a lost actor's shard goes to another, under its fixed name."""

import io
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from ray.exceptions import RayActorError

from evaluation.ranking import Popularity, Shard, rank_targets
from mdsrec import files, schema, tables
from mdsrec.config import Experiment
from training.data import SequenceReader
from training.ray_session import uses_gpu
from training.trained import load_trained

SPARE_ACTORS = 3  # lost actors that a ranking survives, beyond one for each worker

log = logging.getLogger("evaluation")


class RankWorker:
    """One process with the trained model and all item vectors."""

    def __init__(self, experiment: Experiment) -> None:
        torch.set_num_threads(1)
        self._settings = experiment.eval
        self._reader = SequenceReader(experiment)
        self._trained = load_trained(
            experiment, torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        )
        self._items = self._trained.item_vectors()
        self._popularity = Popularity(_num_train(experiment))

    def ready(self) -> int:
        """Returns once the actor stands."""
        return 0

    def rank(self, shard: Shard, version: str) -> int:
        """Write the part of `shard` below `version`, all or nothing -> number of its targets."""
        targets = self._reader.targets(shard.first, shard.last)
        ranks = rank_targets(
            self._trained,
            self._items,
            self._popularity,
            targets,
            self._settings.user_batch,
            self._settings.item_block,
        )
        content = io.BytesIO()
        pq.write_table(ranks, content, compression="zstd")
        files.write_bytes(f"{version}/part-{shard.number:05d}.parquet", content.getvalue())
        return len(targets)


def _num_train(experiment: Experiment) -> np.ndarray[Any, np.dtype[np.int64]]:
    uri = tables.table_uri(experiment.root, "items")
    items = tables.read_table(uri, schema.ITEMS, ["num_train"])
    return np.asarray(items["num_train"].to_numpy())


class Pool:
    """Actors that rank shards. A shard is given only to an actor that has started, so a cluster too
    small for every worker ranks with those it can hold."""

    def __init__(self, experiment: Experiment, num_workers: int) -> None:
        self._actor = ray.remote(num_cpus=1, num_gpus=int(uses_gpu(experiment)))(RankWorker)
        self._experiment = experiment
        self._losses_left = num_workers + SPARE_ACTORS
        self._running: dict[Any, tuple[Any, Shard | None]] = {}
        for _ in range(num_workers):
            self._start()

    def __enter__(self) -> Self:
        """Waits for the first actor, so that what follows is ranking alone."""
        if self._running:
            ray.wait(list(self._running), num_returns=1)
        return self

    def __exit__(self, *_: object) -> None:
        for actor, _shard in self._running.values():
            ray.kill(actor)

    def rank(self, shards: Sequence[Shard], version: str) -> Iterator[tuple[Shard, int]]:
        """Rank every shard once; each shard and its number of targets as it is done."""
        waiting, left = deque(shards), len(shards)
        while left:
            [finished], _ = ray.wait(list(self._running), num_returns=1)
            actor, shard = self._running.pop(finished)
            try:
                num_targets = ray.get(finished)
            except RayActorError as error:
                self._replace(error)
                if shard is not None:
                    waiting.appendleft(shard)
                continue
            if shard is not None:
                left -= 1
                yield shard, num_targets
            if not waiting:
                ray.kill(actor)
                continue
            following = waiting.popleft()
            self._running[actor.rank.remote(following, version)] = (actor, following)

    def _start(self) -> None:
        actor = self._actor.remote(self._experiment)
        self._running[actor.ready.remote()] = (actor, None)

    def _replace(self, error: RayActorError) -> None:
        """A new actor for one whose process was lost; one that cannot load the run is an error."""
        if error.actor_init_failed or not self._losses_left:
            raise error
        self._losses_left -= 1
        log.warning("a ranking worker was lost, another takes its place")
        self._start()
