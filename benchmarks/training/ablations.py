"""Variants of an experiment over several seeds: test metrics, and how far each is from the whole.

Every run is trained and ranked by its stages, as a user would; what stands is not made again. The
differences are means over users and seeds, with 95% intervals of a bootstrap over users.
"""

import argparse
from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import markdown
from evaluation.metrics.bootstrap import difference
from evaluation.metrics.events import Events, read_events
from mdsrec.command import OVERRIDES_HELP
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from tuning.stages import RunSpec, train_and_rank

Floats = NDArray[np.float64]

CUTOFFS = (10, 20)
WHOLE = "MDSRec"


def variants_of(experiment: Experiment) -> dict[str, list[str]]:
    """Overrides by name: Table 3 of the paper, ids alone, other readings, and sampled losses."""
    sampled = ["train.loss=sampled", "train.num_negatives=1000"]
    return {
        WHOLE: [],
        "w/o DIS": ["graph.distance=false"],
        "w/o CRE": [f"model.mu.{modality}=0.0" for modality in experiment.modalities],
        "w/o MRGC": ["model.item_graph=false"],
        "w/o ICA": ["model.interest_centers=false"],
        "ids alone": ["model.modalities=[]", "model.mu={}"],
        "inner products": ["model.temperature=0.0"],
        "O symmetric": ["graph.normalize=symmetric"],
        "O bare": ["graph.normalize=none"],
        "item beside its neighbours": ["model.include_self=true"],
        "no item hidden": ["model.item_mask=0.0"],
        "sampled, uniform": sampled,
        "sampled, popularity": [*sampled, "train.negatives=popularity"],
        "sampled, in batch": ["train.loss=sampled", "train.negatives=in_batch"],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=OVERRIDES_HELP)
    parser.add_argument("--variants", metavar="NAME", nargs="+", help="the default is all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")


def run(arguments: argparse.Namespace) -> None:
    runs = list(_runs(arguments))
    outcome = train_and_rank(runs, arguments.jobs)
    if outcome.failed:
        raise InputError("; ".join(outcome.failed))
    found: dict[str, list[Events]] = {}
    for each in runs:
        found.setdefault(each.label, []).append(read_events(each.paths.uri, CUTOFFS))
    print(_table(found))


def _runs(arguments: argparse.Namespace) -> Iterator[RunSpec]:
    experiment = load_experiment(arguments.config, arguments.overrides)
    variants = variants_of(experiment)
    chosen = arguments.variants or list(variants)
    if unknown := [name for name in chosen if name not in variants]:
        raise InputError(f"--variants: no {unknown[0]!r}; there is {', '.join(variants)}")
    for seed, name in product(range(arguments.seeds), chosen):
        words = "".join(letter if letter.isalnum() else "-" for letter in name)
        identity = [f"name={experiment.name}-{words}-{seed}", f"seed={seed}"]
        yield RunSpec(name, arguments.config, [*arguments.overrides, *variants[name], *identity])


def _table(found: dict[str, list[Events]]) -> str:
    names = [f"{metric}@{n}" for metric, n in product(("recall", "ndcg"), CUTOFFS)]
    compared = names[0], names[2]
    rows = []
    for variant, seeds in found.items():
        place = [seeds[0].names.index(name) for name in names]
        of_seeds = np.stack([seed.values[:, place].mean(axis=0) for seed in seeds])
        row = [variant, *map(_mean_and_deviation, of_seeds.T)]
        if WHOLE in found and variant != WHOLE:
            values, of_whole = (
                np.mean([s.values for s in of], axis=0) for of in (seeds, found[WHOLE])
            )
            apart = difference(seeds[0].users, values, of_whole)
            row += [apart.text(seeds[0].names.index(name)) for name in compared]
        rows.append([*row, *[""] * (len(names) + 3 - len(row))])
    return markdown(["variant", *names, *(f"{name} minus {WHOLE}'s" for name in compared)], rows)


def _mean_and_deviation(of_seeds: Floats) -> str:
    deviation = of_seeds.std(ddof=1) if len(of_seeds) > 1 else 0.0
    return f"{of_seeds.mean():.4f} ± {deviation:.4f}"
