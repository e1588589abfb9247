"""The work of one rank of a sharded training: load, steps, save, restore, a batch of validation."""

import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from benchmarks.rehearsal.counting import counts_of, graphs_of
from benchmarks.rehearsal.peer_files import write_peer_files
from benchmarks.rehearsal.phases import STEPS, Phases
from benchmarks.rehearsal.stub import StubPeers
from benchmarks.rehearsal.world import VALIDATED_OF_RANK, World, write_tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from training.checkpoints.format import load_checkpoint, save_checkpoint
from training.data.item_order import ItemOrder
from training.data.prefetch import Prefetch
from training.data.sequences import SequenceReader
from training.distributed import engine as ds
from training.distributed.engine_protocol import Engine
from training.models.base import Model
from training.models.registry import build_model
from training.sharding.item_shards import ItemShards
from training.sharding.own_tables import load_own_tables
from training.sharding.owners import Owners
from training.step import Share, share_of, take_step
from training.validation import validate

CPU = torch.device("cpu")
WARM_UP_ITEMS = 4_096


def rehearse(world: World, num_steps: int) -> Phases:
    """Run the rank of a world on its tables, which exist already, in a process group of one."""
    torch.set_num_threads(os.cpu_count() or 1)
    _warm_up(world)
    experiment = world.experiment
    owners = _owners(world, experiment)
    phases = Phases(owners)
    engine = _built(experiment, owners, phases)
    with phases.phase(STEPS, num_steps) as figures:
        figures |= _take_steps(engine, experiment, num_steps)
    with tempfile.TemporaryDirectory(dir=world.folder) as folder:
        _save_and_restore(engine, Path(folder), phases)
    with phases.phase("validation") as figures:
        reader = SequenceReader(experiment)
        reader.num_users = world.workers * VALIDATED_OF_RANK  # one batch of each rank
        figures |= validate(engine, experiment, reader, CPU)
    return phases


def _built(experiment: Experiment, owners: Owners, phases: Phases) -> Engine[Model]:
    """Load the tables and build an engine, which then holds what it needs of them."""
    with phases.phase("load"):
        tables = load_own_tables(experiment, owners)
    with phases.phase("build"):
        model = build_model(experiment, tables)
        model.owners = owners
        model.initialize(experiment.seed)
        engine = ds.initialize(model, experiment, CPU)
    phases.graphs = graphs_of(model, tables)
    return engine


def _warm_up(world: World) -> None:
    """Take a step on a tiny catalogue, so that what a process needs for any is there already."""
    with tempfile.TemporaryDirectory(dir=world.folder) as folder:
        tiny = world._replace(folder=Path(folder), items=WARM_UP_ITEMS, workers=2, rank=1)
        write_tables(tiny)
        experiment = tiny.experiment
        owners = _owners(tiny, experiment)
        _take_steps(_built(experiment, owners, Phases(owners, prints=False)), experiment, 1)


def _owners(world: World, experiment: Experiment) -> Owners:
    longest = experiment.model.neighbors_read + 1
    sizes = experiment.model.all_num_centers()[0], longest
    peers, planner = (StubPeers(world.shards, *sizes, world.draw_items, seed) for seed in (0, 1))
    return Owners(world.shards, peers, planner, ItemOrder())


def _take_steps(engine: Engine[Model], experiment: Experiment, number: int) -> dict[str, Any]:
    """Take steps as a worker does, and return what they counted."""
    engine.train()
    counts = []
    for share in Prefetch(islice(_shares(engine, experiment), number)):
        take_step(engine, experiment, share)
        counts.append(counts_of(share, engine.module, experiment)._asdict())
    return {"counts": counts}


def _shares(engine: Engine[Model], experiment: Experiment) -> Iterator[Share]:
    reader = SequenceReader(experiment)
    for epoch in count():
        for number, step in enumerate(reader.steps(epoch)):
            yield share_of(engine.module, experiment, step, (epoch, number), CPU)


def _save_and_restore(engine: Engine[Model], folder: Path, phases: Phases) -> None:
    """Save, forget the own rows, restore. InputError if they are not what they were."""
    items = engine.item_parameters
    assert isinstance(items, ItemShards)
    with phases.phase("save"):
        save_checkpoint(engine, folder, {})
    write_peer_files(engine, folder, items.shards)
    before = _checksums(items)
    for part in _states(items).values():
        part.zero_()
    with phases.phase("restore"):
        load_checkpoint(engine, str(folder))
    if _checksums(items) != before:
        raise InputError("the rows that were restored are not those that were saved")


def _states(items: ItemShards) -> Mapping[str, torch.Tensor]:
    return {
        f"{name}/{moment}": items.held_state(name, moment)
        for name in items.weights
        for moment in (None, 0, 1)
    }


def _checksums(items: ItemShards) -> dict[str, int]:
    return {name: zlib.crc32(part.numpy().data) for name, part in _states(items).items()}


@contextmanager
def process_group() -> Iterator[None]:
    """Start a process group of one rank, which DeepSpeed needs."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(LOCAL_RANK="0", RANK="0", WORLD_SIZE="1")
        rendezvous = f"file://{folder}/rendezvous"
        distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
        try:
            yield
        finally:
            distributed.destroy_process_group()
