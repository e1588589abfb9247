"""One optimizer step on a rank's slice of a global step.

Everything random is drawn from (seed, epoch, step), so a resumed run repeats what it would have
done, and what a model draws for a prefix (the noise of Eq. 19) is the same, whichever rank holds
it.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils._pytree import tree_map_only

from mdsrec.config import Experiment
from training.data.negatives import Negatives
from training.data.sequences import Step, batch_of
from training.models.base import Batch, Model

HOST = torch.device("cpu")
DROPOUT, NOISE, NEGATIVES = 0, 1, 2  # streams of random numbers


class Share(NamedTuple):
    """A rank's share of a global step, in the parts that it computes one after the other."""

    position: tuple[int, int]  # epoch, step
    num_prefixes: int  # of the whole step
    parts: list[Batch]


def share_of(
    model: Model,
    experiment: Experiment,
    step: Step,
    position: tuple[int, int],
    device: torch.device,
) -> Share:
    """All of a step that can be made before the weights of the step before are known, in the host's
    memory, from where `device` can copy it while it computes.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    num_parts = experiment.train.accumulation
    noise = noise_of(model, experiment, step, position)
    negatives = negatives_of(model, experiment, step, position)
    places = [(rank + part * world_size, num_parts * world_size) for part in range(num_parts)]
    parts = [model.with_entries(batch_of(step, *p, noise, HOST, negatives)) for p in places]
    if device.type == "cuda":
        parts = tree_map_only(Tensor, lambda t: t if t.is_cuda else t.pin_memory(), parts)
    return Share(position, step.num_prefixes, parts)


def take_step(engine: Any, experiment: Experiment, share: Share) -> Tensor:
    """One optimizer step on a global step -> this rank's loss of each channel, summed over its
    prefixes.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(_seed(experiment, *share.position, DROPOUT, rank))
    total = torch.zeros_like(engine.module.channel_weights)
    moved = partial(Tensor.to, device=total.device, non_blocking=True)
    for part in share.parts:
        losses: Tensor = engine(tree_map_only(Tensor, moved, part))
        # DeepSpeed sums gradients over the parts and averages them over the ranks; the objective is
        # the mean over the step's prefixes.
        loss = engine.module.channel_weights @ losses * world_size / share.num_prefixes
        engine.backward(loss, scale_wrt_gas=False)
        engine.step()  # of the optimizer after the last part alone
        total += losses.detach()
    return total


def noise_of(model: Model, experiment: Experiment, step: Step, position: tuple[int, int]) -> Tensor:
    """What the model draws for the prefixes of a step, in order -> [prefixes, ...]."""
    generator = torch.Generator().manual_seed(_seed(experiment, *position, NOISE))
    return model.draw(step.samples.num_prefixes, generator)


def negatives_of(
    model: Model, experiment: Experiment, step: Step, position: tuple[int, int]
) -> Negatives | None:
    """What every prefix of a step is set against; None in the full loss."""
    if model.sampler is None:
        return None
    return model.sampler.draw(step.targets, _seed(experiment, *position, NEGATIVES))


def _seed(experiment: Experiment, *stream: int) -> int:
    return int(np.random.SeedSequence([experiment.seed, *stream]).generate_state(1, np.uint64)[0])
