"""Distance of the sampled loss's mean gradient from the full loss's, at the weights of a run.

The gradient is that of one training step without dropout. Its mean is over DRAWS draws of
negatives.
"""

import argparse

import torch
from torch import Tensor

from mdsrec.command import add_experiment
from mdsrec.config import TrainConfig
from mdsrec.config.loading import load_experiment
from mdsrec.text import markdown_table
from training.data.batch import Batch, batch_of
from training.data.item_tables import load_item_tables
from training.data.negatives import build_sampler
from training.data.sequences import SequenceReader
from training.inference import load_trained
from training.models.mdsrec.model import MDSRec
from training.step import noise_of

CPU = torch.device("cpu")
DRAWS = 60
COLUMNS = ["negatives", "draws", "distance / length of the full gradient", "cosine"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    numbers = [10, 100, 1000]
    parser.add_argument("--negatives", type=int, nargs="+", default=numbers, help="per step")


def run(arguments: argparse.Namespace) -> None:
    experiment = load_experiment(arguments.config, arguments.overrides)
    model, tables = load_trained(experiment).model, load_item_tables(experiment)
    assert isinstance(model, MDSRec)
    step = next(SequenceReader(experiment).steps(0))
    noise = noise_of(model, experiment, step, (0, 0))
    full = _gradient(model, batch_of(step, 0, 1, noise, CPU))
    rows = []
    for count in [*arguments.negatives, tables.num_items]:
        config = TrainConfig(loss="sampled", num_negatives=count)
        config.check_fits(tables.num_items)
        sampler = build_sampler(config, tables)
        assert sampler is not None
        draws = DRAWS if count < tables.num_items else 1
        mean = torch.zeros_like(full)
        for seed in range(draws):
            negatives = sampler.draw(step.targets, seed)
            mean += _gradient(model, batch_of(step, 0, 1, noise, CPU, negatives)) / draws
        distance = (mean - full).norm() / full.norm()
        cosine = torch.cosine_similarity(mean, full, dim=0)
        rows.append([f"{count:,}", f"{draws}", f"{distance:.1e}", f"{cosine:.4f}"])
    print(markdown_table(COLUMNS, rows))


def _gradient(model: MDSRec, batch: Batch) -> Tensor:
    """Return the gradient of the summed objective, of all parameters end to end."""
    loss = model.channel_weights @ model(batch)
    gradients = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return torch.cat([gradient.flatten().double() for gradient in gradients])
