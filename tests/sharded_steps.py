"""Trainings of some steps on ranks that own items, and on ranks that hold all of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.distributed import engine as ds
from training.distributed.engine_protocol import Engine
from training.distributed.zero_state import KINDS, create_moments, full_shapes, held_state
from training.models.base import Model
from training.models.registry import build_model
from training.sharding import ownership
from training.sharding.item_shards import ItemShards
from training.sharding.own_tables import load_own_tables
from training.sharding.owners import owners_of
from training.step import share_of, take_step

CPU = torch.device("cpu")
NUM_ITEMS = 40  # of the small data set
ITEM_PARAMETERS = ("item_embedding", "item_bias", "fusion")


class Job(NamedTuple):
    """What to train, and in which form."""

    resolved: dict[str, Any]
    sharded: bool = True
    precise: bool = True  # in float64
    num_steps: int = 20
    block: int = 4  # items, in place of those of ownership.BLOCK
    fault: str = ""  # a planted one


def engine_of(experiment: Experiment, job: Job) -> Engine[Model]:
    """Return an engine with initial weights. Collective."""
    ownership.BLOCK = job.block
    owners = owners_of(NUM_ITEMS, timeout_minutes=5) if job.sharded else None
    tables = load_item_tables(experiment) if owners is None else load_own_tables(experiment, owners)
    model = build_model(experiment, tables)
    model.owners = owners
    model = model.double() if job.precise else model
    model.initialize(experiment.seed)
    engine = ds.initialize(model, experiment, CPU)
    if job.precise:
        exchange_float64(engine)
    assert isinstance(engine.item_parameters, ItemShards) == job.sharded
    engine.train()
    return engine


def exchange_float64(engine: Engine[Model]) -> None:
    """Let DeepSpeed send gradients as they are; by default it sends float32."""
    from deepspeed import get_accelerator

    engine.communication_data_type = torch.float64  # type: ignore[attr-defined]
    get_accelerator().supported_dtypes = lambda: [torch.float32, torch.float64]


def take_steps(engine: Engine[Model], experiment: Experiment, first: int, last: int) -> Tensor:
    """Take steps first <= step < last and return this rank's part of the losses [steps, C]."""
    losses: list[Tensor] = []
    reader, number, epoch = SequenceReader(experiment), 0, 0
    while number < last:
        for in_epoch, step in enumerate(reader.steps(epoch)):
            if first <= number < last:
                share = share_of(engine.module, experiment, step, (epoch, in_epoch), CPU)
                losses.append(take_step(engine, experiment, share) / step.num_prefixes)
            number += 1
        epoch += 1
    return torch.stack(losses)


def state_of(engine: Engine[Model]) -> dict[str, Tensor]:
    """Return weights and moments of everything; of items those that this rank holds."""
    create_moments(engine)
    return {
        f"{name} {kind}": held_state(engine, name, kind).clone()
        for name in sorted(full_shapes(engine))
        for kind in KINDS
    }


def trained(job: Job) -> dict[str, Tensor]:
    """Train on this rank and return its losses, weights and moments."""
    experiment = experiment_from(job.resolved, source="test")
    engine = engine_of(experiment, job)
    losses = take_steps(engine, experiment, 0, job.num_steps)
    return {"losses": losses, **state_of(engine)}


def joined(ranks: list[dict[str, Tensor]]) -> Mapping[str, Tensor]:
    """Return the sum of the ranks' losses, and weights and moments of everything.

    What the ranks do not have in parts must be the same on all.
    """
    found = {"losses": torch.stack([rank["losses"] for rank in ranks]).sum(0)}
    for name in ranks[0].keys() - found.keys():
        parts = [rank[name] for rank in ranks]
        if name.split()[0] not in ITEM_PARAMETERS or is_same(parts):
            assert is_same(parts), f"the ranks differ in {name}"
            found[name] = parts[0]
        else:
            found[name] = torch.cat(parts)
    return found


def is_same(parts: list[Tensor]) -> bool:
    return all(torch.equal(part, parts[0]) for part in parts)
