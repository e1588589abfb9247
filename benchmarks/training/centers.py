"""Effect of the interest centers of a trained run, by the length of a prefix.

The spread of the centers in each layer is the root mean square of their distances from their mean,
divided by the length of the mean. The vector that they add to a prefix is given relative to the
length of the prefix's own vector, with the number of centers that it effectively mixes.

Shapes: P prefixes, T positions, K centers, D width, F columns.
"""

import argparse
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.training import plain
from mdsrec.command import add_experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.text import markdown_table
from training.data.batch import Batch, batch_of
from training.data.sequences import SequenceReader
from training.inference import load_trained
from training.models.mdsrec.items import module_key
from training.models.mdsrec.model import MDSRec
from training.step import noise_of

CPU = torch.device("cpu")
LENGTHS = {"1": (1, 1), "2 to 3": (2, 3), "4 to 7": (4, 7), "8 or more": (8, math.inf)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--steps", type=int, default=10, help="steps of training (default: 10)")


@torch.no_grad()
def run(arguments: argparse.Namespace) -> None:
    experiment = load_experiment(arguments.config, arguments.overrides)
    model = load_trained(experiment).model
    if not isinstance(model, MDSRec):
        raise InputError(f"model.name = {experiment.model.name}: the run has no interest centers")
    lengths, columns = [], []
    for number, step in enumerate(SequenceReader(experiment).steps(0)):
        if number == arguments.steps:
            break
        batch = batch_of(step, 0, 1, noise_of(model, experiment, step, (0, number)), CPU)
        prefixes = plain.prefixes_of(batch, experiment.network.max_length)
        for index, name in enumerate(model.modalities):
            lengths.append(prefixes.lengths)
            columns.append(torch.stack(list(_columns(model, batch, prefixes, index, name)), dim=1))
    length_P, columns_PF = torch.cat(lengths), torch.cat(columns)
    rows = []
    for name, (least, most) in LENGTHS.items():
        of_length = columns_PF[(length_P >= least) & (length_P <= most)]
        means = of_length.mean(dim=0).tolist()
        rows.append([name, f"{len(of_length):,}", *(f"{mean:.2f}" for mean in means)])
    spreads = [f"spread of c^{layer}" for layer in range(model.config.num_layers + 1)]
    header = ["events", "prefixes", *spreads, "added / own length", "effective centers"]
    print(markdown_table(header, rows))


def _columns(
    model: MDSRec, batch: Batch, prefixes: plain.Prefixes, index: int, name: str
) -> Iterator[Tensor]:
    """Yield columns [P]: spread of c^0 ... c^L, added / own length, effective centers."""
    entries, _ = model.items.entries(batch.items, CPU)
    inputs = model.items.sequence_inputs(model.item_embedding, batch.items, entries, {}, {})
    _, tokens, starts = inputs
    start_KD = starts[index]
    if start_KD is None:
        raise InputError("model.interest_centers = false: the run has no interest centers")
    (P, T), lengths_P = prefixes.items.shape, prefixes.lengths
    x_PTD = tokens[1 + index][prefixes.items] + model.position_embedding[:T]
    valid_PT, c_PKD = torch.arange(T) < lengths_P[:, None], start_KD.expand(P, -1, -1)
    states = list(plain.states_of(model.encoders[module_key(name)], x_PTD, c_PKD, valid_PT))
    yield from (_spread(centers) for _, centers in states if centers is not None)
    x_PTD, last_PKD = states[-1]
    assert last_PKD is not None
    e_PD = x_PTD[torch.arange(P), lengths_P - 1]
    logits_PK = torch.einsum("pd,pkd->pk", e_PD, last_PKD)
    gamma_PK = torch.softmax(logits_PK / model.config.tau, dim=-1)
    added_PD = torch.einsum("pk,pkd->pd", gamma_PK, last_PKD)
    yield added_PD.norm(dim=-1) / e_PD.norm(dim=-1)
    yield torch.special.entr(gamma_PK).sum(dim=-1).exp()


def _spread(c_PKD: Tensor) -> Tensor:
    mean_P1D = c_PKD.mean(dim=1, keepdim=True)
    distance_P = (c_PKD - mean_P1D).square().sum(dim=-1).mean(dim=1).sqrt()
    spread_P: Tensor = distance_P / mean_P1D.norm(dim=-1)[:, 0]
    return spread_P
