"""Metrics of SASRec here and of RecBole's, on the same split with the same settings.

Both train each seed until validation ndcg@10 has not improved for `train.patience` epochs. The
difference of the means is given with the 95% interval of Welch's t-test over the seeds.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.recbole import split
from evaluation.metrics.run_metrics import RunMetrics
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.text import markdown_table
from tuning.stages import RunSpec, train_and_rank

Metrics = dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    split.add_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")


def run(arguments: argparse.Namespace) -> None:
    overrides = split.sasrec_overrides(arguments.config, arguments.overrides)
    runs = list(runs_of(arguments.config, overrides, arguments.seeds))
    ours = metrics_here(runs)
    theirs = list(_metrics_of_recbole(runs, arguments.python, arguments.threads))
    print_tables(ours, theirs, "RecBole")


def runs_of(config: str, overrides: Sequence[str], seeds: int) -> Iterator[RunSpec]:
    """Yield a run of SASRec for each seed."""
    name = load_experiment(config, overrides).name
    for seed in range(seeds):
        identity = [f"name={name}-sasrec-{seed}", f"seed={seed}"]
        yield RunSpec("sasrec", config, [*overrides, *identity])


def metrics_here(runs: list[RunSpec]) -> list[dict[str, Metrics]]:
    """Train and rank the runs -> their metrics of each part."""
    outcome = train_and_rank(runs, jobs=1)
    if outcome.failed:
        raise InputError("; ".join(outcome.failed))
    found = [RunMetrics.read(run.paths.metrics).split for run in runs]
    return [{part: of_part["all"] for part, of_part in split.items()} for split in found]


def print_tables(
    ours: list[dict[str, Metrics]], theirs: list[dict[str, Metrics]], peer: str
) -> None:
    """Print a table for validation and one for test."""
    for part in ("valid", "test"):
        print(f"{part}\n\n{table([o[part] for o in ours], [t[part] for t in theirs], peer)}\n")


def _metrics_of_recbole(runs: list[RunSpec], python: str, threads: int) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split.write_split(runs[0].experiment, folder)
        for run in runs:
            settings = split.settings_of(run.experiment, folder)
            found = split.run_recbole(python, "fit", settings, threads)
            line = f"RecBole, seed {settings['seed']}: {found['epochs']} epochs"
            print(line, file=sys.stderr, flush=True)
            yield found


def table(ours: list[Metrics], theirs: list[Metrics], peer: str) -> str:
    """Return mean and deviation of both, and their difference, for the metrics that both have."""
    rows = []
    for name in (name for name in ours[0] if name in theirs[0]):
        here, there = (np.array([of_seed[name] for of_seed in of]) for of in (ours, theirs))
        difference = f"{here.mean() - there.mean():+.4f}"
        if len(here) > 1:
            welch = stats.ttest_ind(here, there, equal_var=False)
            low, high = welch.confidence_interval(0.95)
            difference += f" [{low:+.4f}, {high:+.4f}]"
        rows.append([name, _mean_and_deviation(here), _mean_and_deviation(there), difference])
    return markdown_table(["metric", "here", peer, f"here minus {peer}"], rows)


def _mean_and_deviation(of_seeds: Any) -> str:
    deviation = f" ± {of_seeds.std(ddof=1):.4f}" if len(of_seeds) > 1 else ""
    return f"{of_seeds.mean():.4f}{deviation}"
