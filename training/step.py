"""One optimizer step on a rank's share of a global step.

Random numbers are seeded with (seed, epoch, step). So a resumed run draws the same numbers as one
without interruption, and the noise of a prefix (Eq. 19) does not depend on the rank that computes
it.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mdsrec.config import Experiment
from training.data.batch import Batch, batch_of, with_stacked_rows
from training.data.negatives import Negatives
from training.data.windows import Step
from training.device import product_precision
from training.distributed.engine import gather_parameters
from training.distributed.engine_protocol import Engine
from training.models.base import Model
from training.sharding.exchange import plan_rows
from training.sharding.item_shards import EMBEDDING
from training.sharding.owners import rank_and_world_size

HOST = torch.device("cpu")
DROPOUT, NOISE, NEGATIVES = 0, 1, 2  # streams of random numbers

EpochAndStep = tuple[int, int]


class Share(NamedTuple):
    """A rank's share of a global step, cut into `train.accumulation` batches."""

    epoch_and_step: EpochAndStep
    num_prefixes: int  # of the whole step
    batches: list[Batch]


def share_of(
    model: Model,
    experiment: Experiment,
    step: Step,
    epoch_and_step: EpochAndStep,
    device: torch.device,
) -> Share:
    """Prepare this rank's share of a step.

    It does not depend on the weights, so it can be prepared while earlier steps are computed. For a
    GPU it is in pinned host memory, which the GPU copies while it computes.
    """
    rank, world_size = rank_and_world_size(model.owners)
    num_parts = experiment.train.accumulation
    noise = noise_of(model, experiment, step, epoch_and_step)
    negatives = negatives_of(model, experiment, step, epoch_and_step)
    slices = [(rank + part * world_size, num_parts * world_size) for part in range(num_parts)]
    batches = [model.prepare(batch_of(step, *s, noise, HOST, negatives)) for s in slices]
    if model.reads_rows:
        batches = [with_plan(model, model.with_row_ids(batch)) for batch in batches]
    if device.type == "cuda":
        batches = tree_map_only(Tensor, Tensor.pin_memory, list(map(with_stacked_rows, batches)))
    return Share(epoch_and_step, step.num_prefixes, batches)


def take_step(engine: Engine[Model], experiment: Experiment, share: Share) -> Tensor:
    """Take one optimizer step on a global step. Collective.

    Returns this rank's loss of each channel, summed over its prefixes [C].
    """
    on_gpu = engine.module.channel_weights.is_cuda
    with product_precision(experiment.train.precision if on_gpu else "fp32"):
        return _take_step(engine, experiment, share)


def _take_step(engine: Engine[Model], experiment: Experiment, share: Share) -> Tensor:
    rank, world_size = rank_and_world_size(engine.module.owners)
    if engine.module.is_refreshed_before(share.epoch_and_step[1]):
        engine.module.refresh(_center_products(engine))
    torch.manual_seed(_seed(experiment, *share.epoch_and_step, DROPOUT, rank))
    total = torch.zeros_like(engine.module.channel_weights)
    to_device = partial(Tensor.to, device=total.device, non_blocking=True)
    by_rows, rate = engine.item_parameters, engine.get_lr()[0]
    for number, batch in enumerate(share.batches, 1):
        on_device = tree_map_only(Tensor, to_device, batch)
        rows = None if by_rows is None else by_rows.read(on_device)
        with engine.module.reading(rows):
            losses: Tensor = engine(on_device)
        # The objective is the mean over the step's prefixes. DeepSpeed sums gradients over the
        # batches and averages them over the ranks.
        loss = engine.module.channel_weights @ losses * world_size / share.num_prefixes
        engine.backward(loss, scale_wrt_gas=False)
        if by_rows is not None and number == len(share.batches):
            by_rows.gather_gradients()
        engine.step()  # the optimizer's step comes only after the last batch
        total += losses.detach()
    if by_rows is not None:
        by_rows.step(rate)
    return total


def with_plan(model: Model, batch: Batch) -> Batch:
    """Return the batch with the plan of its rows, if ranks own items. Collective then."""
    if model.owners is None:
        return batch
    assert batch.row_ids is not None
    return batch._replace(plan=plan_rows(batch.row_ids, model.owners.shards, model.owners.planner))


def _center_products(engine: Engine[Model]) -> dict[str, Tensor]:
    """Return the products of the model's `center_rows` with the item embedding. Collective."""
    by_rows, model = engine.item_parameters, engine.module
    if by_rows is not None:
        return by_rows.center_products()
    if not model.center_rows:
        return {}
    with torch.no_grad(), gather_parameters(engine):
        embedding = model.rows_of(EMBEDDING, None)
        return {name: rows.times(embedding) for name, rows in model.center_rows.items()}


def noise_of(
    model: Model, experiment: Experiment, step: Step, epoch_and_step: EpochAndStep
) -> Tensor:
    """Return the noise that the model draws for the prefixes of a step [prefixes, ...]."""
    generator = torch.Generator().manual_seed(_seed(experiment, *epoch_and_step, NOISE))
    return model.draw_noise(step.samples.num_prefixes, generator)


def negatives_of(
    model: Model, experiment: Experiment, step: Step, epoch_and_step: EpochAndStep
) -> Negatives | None:
    """Draw the negatives that all prefixes of a step share; None for the full loss."""
    if model.sampler is None:
        return None
    negatives = model.sampler.draw(step.targets, _seed(experiment, *epoch_and_step, NEGATIVES))
    if model.owners is None or experiment.train.negatives == "in_batch":  # which draws places
        return negatives
    return negatives._replace(items=model.owners.order.places(negatives.items))


def _seed(experiment: Experiment, *stream: int) -> int:
    return int(np.random.SeedSequence([experiment.seed, *stream]).generate_state(1, np.uint64)[0])
