"""The first steps of a training by DeepSpeed, for tests that compare numbers of workers."""

from typing import Any

import torch
from torch import Tensor

from mdsrec.config.loading import experiment_from
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.distributed import engine as ds
from training.models.mdsrec.model import MDSRec
from training.step import share_of, take_step

CPU = torch.device("cpu")


def losses_of_steps(resolved: dict[str, Any], num_steps: int) -> Tensor:
    """Train MDSRec and return this rank's part of each channel's loss per step [steps, C]."""
    experiment = experiment_from(resolved, source="test")
    model = MDSRec(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    engine = ds.initialize(model, experiment, CPU)
    engine.train()
    reader = SequenceReader(experiment)
    losses, epoch = [], 0
    while len(losses) < num_steps:
        for number, step in enumerate(reader.steps(epoch)):
            share = share_of(engine.module, experiment, step, (epoch, number), CPU)
            loss = take_step(engine, experiment, share)
            losses.append(loss.double() / step.num_prefixes)
        epoch += 1
    return torch.stack(losses[:num_steps])
