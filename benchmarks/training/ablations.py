"""Test metrics of variants of an experiment over several seeds, compared with the first variant.

Finished runs are not repeated. With a memory there are two tables: one of the whole score, and one
of the network without the memory. The differences are means over users and seeds, with 95%
intervals of a bootstrap over users.
"""

import argparse
from collections.abc import Sequence
from itertools import product

from benchmarks.seeds import (
    CUTOFFS,
    Variants,
    channels_of,
    difference_cells,
    events_of,
    metric_cells,
    runs_of,
    train_all,
)
from mdsrec.command import add_experiment
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.text import markdown_table
from tuning.stages import RunSpec


def variants_of(experiment: Experiment) -> Variants:
    """Return the overrides of each variant.

    They are those of Table 3 of the paper, a model of ids only, other readings of the paper, and
    sampled losses.
    """
    sampled = ["train.loss=sampled", "train.num_negatives=1000"]
    blocks = ["model.name=benchmarks.readings:BlockCenters"]
    return {
        "MDSRec": [],
        "w/o DIS": ["graph.distance=false"],
        "w/o CRE": [f"model.mu.{modality}=0.0" for modality in experiment.modalities],
        "w/o MRGC": ["model.item_graph=false"],
        "w/o ICA": ["model.interest_centers=false"],
        "only ids": ["model.modalities=[]", "model.mu={}"],
        "inner products": ["model.temperature=0.0"],
        "O symmetric": ["graph.normalize=symmetric"],
        "O bare": ["graph.normalize=none"],
        "item among its neighbors": ["model.include_self=true"],
        "no masked items": ["model.item_mask=0.0"],
        "centers as blocks": [*blocks, "model.num_centers=8"],
        "own clusters": [*blocks, "model.own_clusters=true", "model.num_centers=256"],
        "sampled, uniform": sampled,
        "sampled, popularity": [*sampled, "train.negatives=popularity"],
        "sampled, in batch": ["train.loss=sampled", "train.negatives=in_batch"],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--variants", metavar="NAME", nargs="+", help="default: all")
    chosen.add_argument(
        "--grid", metavar=("KEY", "VALUE"), nargs="+", help="a key and its values, as variants"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs per variant (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings in parallel (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    experiment = load_experiment(arguments.config, arguments.overrides)
    variants = _chosen_variants(experiment, arguments)
    runs = runs_of(
        arguments.config, arguments.overrides, experiment.name, variants, arguments.seeds
    )
    train_all(runs, arguments.jobs)
    for channel in channels_of(experiment):
        print(f"channel {channel}\n\n{_table(runs, channel)}\n")


def _chosen_variants(experiment: Experiment, arguments: argparse.Namespace) -> Variants:
    if arguments.grid:
        key, *values = arguments.grid
        return {f"{key}={value}": [f"{key}={value}"] for value in values}
    variants = variants_of(experiment)
    chosen = arguments.variants or list(variants)
    if unknown := [name for name in chosen if name not in variants]:
        raise InputError(f"--variants {unknown[0]!r}: unknown; choose from {', '.join(variants)}")
    return {name: variants[name] for name in chosen}


def _table(runs: Sequence[RunSpec], channel: str) -> str:
    names = [f"{metric}@{n}" for metric, n in product(("recall", "ndcg"), CUTOFFS)]
    compared, events = [names[0], names[2]], events_of(runs, channel)
    first, *_ = events
    rows = [
        [
            variant,
            *metric_cells(seeds, names),
            *(difference_cells(seeds, events[first], compared) if variant != first else ["", ""]),
        ]
        for variant, seeds in events.items()
    ]
    return markdown_table(
        ["variant", *names, *(f"{name} better than {first} by" for name in compared)], rows
    )
