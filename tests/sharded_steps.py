"""Trainings of some steps on ranks that own items, and on ranks that hold all of them."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from training.data.item_order import ItemOrder
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
PLACE_OF = np.random.default_rng(3).permutation(NUM_ITEMS).astype(np.int32)
ITEM_PARAMETERS = ("item_embedding", "item_bias", "fusion")


class Job(NamedTuple):
    """What to train, and in which form."""

    resolved: dict[str, Any]
    sharded: bool = True
    precise: bool = True  # in float64
    num_steps: int = 20
    block: int = 4  # items, in place of those of ownership.BLOCK
    placed: bool = False  # whether ranks own items in a random order
    fault: str = ""  # a planted one


def engine_of(experiment: Experiment, job: Job) -> Engine[Model]:
    """Return an engine with initial weights. Collective."""
    ownership.BLOCK = job.block
    order = ItemOrder(PLACE_OF if job.placed else None)
    owners = owners_of(NUM_ITEMS, 5.0, order) if job.sharded else None
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
    owners = engine.module.owners
    reader = SequenceReader(experiment, order=None if owners is None else owners.order)
    number = epoch = 0
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
    owners = engine.module.owners
    items = np.arange(NUM_ITEMS) if owners is None else owners.items
    return {"items": torch.from_numpy(items).long()} | {
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


def joined(ranks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sum of the ranks' losses, and weights and moments of everything.

    Rows that the ranks hold in parts come in the order of items. All else must be the same on all.
    """
    found = {"losses": torch.stack([rank["losses"] for rank in ranks]).sum(0)}
    items = torch.cat([rank["items"] for rank in ranks])
    order = torch.argsort(items) if len(items) == NUM_ITEMS else None
    for name in ranks[0].keys() - {"losses", "items", "bytes read"}:
        parts = [rank[name] for rank in ranks]
        if order is not None and name.startswith(ITEM_PARAMETERS):
            found[name] = torch.cat(parts).view(NUM_ITEMS, -1)[order].flatten()
        else:
            assert all(torch.equal(part, parts[0]) for part in parts), f"ranks differ in {name}"
            found[name] = parts[0]
    return found
