"""How near the sampled loss's mean gradient is to the full one's, at the weights of a trained run.

One step of training, without dropout; the mean is over DRAWS draws of negatives.
"""

import argparse

import torch
from torch import Tensor

from benchmarks.measure import markdown
from mdsrec.command import OVERRIDES_HELP
from mdsrec.config import TrainConfig
from mdsrec.config.loading import load_experiment
from training.data.batch import Batch, batch_of
from training.data.item_tables import load_item_tables
from training.data.negatives import build_sampler
from training.data.sequences import SequenceReader
from training.inference import load_trained
from training.models.mdsrec.model import MDSRec
from training.step import noise_of

CPU = torch.device("cpu")
DRAWS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=OVERRIDES_HELP)
    parser.add_argument("--negatives", type=int, nargs="+", default=[10, 100, 1000])


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
            drawn = sampler.draw(step.targets, seed)
            mean += _gradient(model, batch_of(step, 0, 1, noise, CPU, drawn)) / draws
        apart = (mean - full).norm() / full.norm()
        cosine = torch.cosine_similarity(mean, full, dim=0)
        rows.append([f"{count:,}", f"{draws}", f"{apart:.1e}", f"{cosine:.4f}"])
    print(markdown(["negatives", "draws", "distance / length of the full one", "cosine"], rows))


def _gradient(model: MDSRec, batch: Batch) -> Tensor:
    """Of the objective's sum, every parameter's, end to end."""
    loss = model.channel_weights @ model(batch)
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return torch.cat([gradient.flatten().double() for gradient in found])
