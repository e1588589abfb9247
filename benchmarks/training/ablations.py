"""Test metrics of variants of an experiment over several seeds, compared with the full model.

Every run is trained and ranked by the command-line stages. Finished runs are not repeated. The
differences are means over users and seeds, with 95% intervals of a bootstrap over users.
"""

import argparse
from collections.abc import Iterator
from itertools import product

import numpy as np

from evaluation.metrics.bootstrap import difference
from evaluation.metrics.events import Events, read_events
from mdsrec.arrays import Floats
from mdsrec.command import add_experiment
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.text import markdown_table
from tuning.stages import RunSpec, train_and_rank

CUTOFFS = (10, 20)
FULL = "MDSRec"


def variants_of(experiment: Experiment) -> dict[str, list[str]]:
    """Return the overrides of each variant.

    They are those of Table 3 of the paper, a model of ids only, other readings of the paper, and
    sampled losses.
    """
    sampled = ["train.loss=sampled", "train.num_negatives=1000"]
    return {
        FULL: [],
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
        "sampled, uniform": sampled,
        "sampled, popularity": [*sampled, "train.negatives=popularity"],
        "sampled, in batch": ["train.loss=sampled", "train.negatives=in_batch"],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--variants", metavar="NAME", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="runs per variant (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings in parallel (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    runs = list(_runs(arguments))
    outcome = train_and_rank(runs, arguments.jobs)
    if outcome.failed:
        raise InputError("; ".join(outcome.failed))
    events_of: dict[str, list[Events]] = {}
    for each in runs:
        events_of.setdefault(each.label, []).append(read_events(each.paths.uri, CUTOFFS))
    print(_table(events_of))


def _runs(arguments: argparse.Namespace) -> Iterator[RunSpec]:
    experiment = load_experiment(arguments.config, arguments.overrides)
    variants = variants_of(experiment)
    chosen = arguments.variants or list(variants)
    if unknown := [name for name in chosen if name not in variants]:
        raise InputError(f"--variants {unknown[0]!r}: unknown; choose from {', '.join(variants)}")
    for seed, name in product(range(arguments.seeds), chosen):
        slug = "".join(letter if letter.isalnum() else "-" for letter in name)
        identity = [f"name={experiment.name}-{slug}-{seed}", f"seed={seed}"]
        yield RunSpec(name, arguments.config, [*arguments.overrides, *variants[name], *identity])


def _table(events_of: dict[str, list[Events]]) -> str:
    names = [f"{metric}@{n}" for metric, n in product(("recall", "ndcg"), CUTOFFS)]
    compared = names[0], names[2]
    rows = []
    for variant, seeds in events_of.items():
        columns = [seeds[0].names.index(name) for name in names]
        of_seeds = np.stack([seed.values[:, columns].mean(axis=0) for seed in seeds])
        row = [variant, *map(_mean_and_deviation, of_seeds.T)]
        if FULL in events_of and variant != FULL:
            values, of_full = (
                np.mean([s.values for s in of], axis=0) for of in (seeds, events_of[FULL])
            )
            differences = difference(seeds[0].users, values, of_full)
            row += [differences.text(seeds[0].names.index(name)) for name in compared]
        rows.append([*row, *[""] * (len(names) + 3 - len(row))])
    return markdown_table(
        ["variant", *names, *(f"{name} better than {FULL} by" for name in compared)], rows
    )


def _mean_and_deviation(of_seeds: Floats) -> str:
    deviation = of_seeds.std(ddof=1) if len(of_seeds) > 1 else 0.0
    return f"{of_seeds.mean():.4f} ± {deviation:.4f}"
