"""Test metrics of variants of an experiment over several seeds, compared with the first variant.

Every run is trained and ranked by the command-line stages. Finished runs are not repeated. With a
memory there are two tables: one of the whole score, and one of the network without the memory. The
differences are means over users and seeds, with 95% intervals of a bootstrap over users.
"""

import argparse
from collections.abc import Iterator
from itertools import product

import numpy as np

from evaluation.metrics.bootstrap import difference
from evaluation.metrics.events import Events, Ranking, all_events, metric_names
from mdsrec.arrays import Floats
from mdsrec.command import add_experiment
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.text import markdown_table
from training.inference import ALL, NETWORK
from tuning.stages import RunSpec, train_and_rank

CUTOFFS = (10, 20)
Overrides = dict[str, list[str]]  # of each variant, by its name


def variants_of(experiment: Experiment) -> Overrides:
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
    runs = list(_runs(experiment, variants, arguments))
    outcome = train_and_rank(runs, arguments.jobs)
    if outcome.failed:
        raise InputError("; ".join(outcome.failed))
    for channel in [ALL, NETWORK] if experiment.model.memory else [ALL]:
        events_of: dict[str, list[Events]] = {}
        for each in runs:
            events = all_events(Ranking(each.paths.uri, channel), CUTOFFS)
            events_of.setdefault(each.label, []).append(events)
        print(f"channel {channel}\n\n{_table(events_of)}\n")


def _chosen_variants(experiment: Experiment, arguments: argparse.Namespace) -> Overrides:
    if arguments.grid:
        key, *values = arguments.grid
        return {f"{key}={value}": [f"{key}={value}"] for value in values}
    variants = variants_of(experiment)
    chosen = arguments.variants or list(variants)
    if unknown := [name for name in chosen if name not in variants]:
        raise InputError(f"--variants {unknown[0]!r}: unknown; choose from {', '.join(variants)}")
    return {name: variants[name] for name in chosen}


def _runs(
    experiment: Experiment, variants: Overrides, arguments: argparse.Namespace
) -> Iterator[RunSpec]:
    for seed, (name, overrides) in product(range(arguments.seeds), variants.items()):
        slug = "".join(letter if letter.isalnum() else "-" for letter in name)
        identity = [f"name={experiment.name}-{slug}-{seed}", f"seed={seed}"]
        yield RunSpec(name, arguments.config, [*arguments.overrides, *overrides, *identity])


def _table(events_of: dict[str, list[Events]]) -> str:
    names = [f"{metric}@{n}" for metric, n in product(("recall", "ndcg"), CUTOFFS)]
    compared = names[0], names[2]
    rows, (first, *_) = [], events_of
    for variant, seeds in events_of.items():
        columns = [metric_names(CUTOFFS).index(name) for name in names]
        of_seeds = np.stack([seed.values[:, columns].mean(axis=0) for seed in seeds])
        row = [variant, *map(_mean_and_deviation, of_seeds.T)]
        if variant != first:
            values, of_first = (
                np.mean([s.values for s in of], axis=0) for of in (seeds, events_of[first])
            )
            differences = difference(seeds[0].users, values, of_first)
            row += [differences.text(metric_names(CUTOFFS).index(name)) for name in compared]
        rows.append([*row, *[""] * (len(names) + 3 - len(row))])
    return markdown_table(
        ["variant", *names, *(f"{name} better than {first} by" for name in compared)], rows
    )


def _mean_and_deviation(of_seeds: Floats) -> str:
    deviation = f" ± {of_seeds.std(ddof=1):.4f}" if len(of_seeds) > 1 else ""
    return f"{of_seeds.mean():.4f}{deviation}"
