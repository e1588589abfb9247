"""Another category first: a start from a run on other data against a cold start.

RUN is the folder of a finished run whose weights have the same shapes, as `mdsrec run` trained it.
"""

import argparse

from benchmarks.growth.starts import print_tables
from benchmarks.seeds import runs_of, train_all
from mdsrec.command import add_experiment, path
from mdsrec.config.loading import load_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_experiment(parser)
    parser.add_argument("--source", metavar="RUN", type=path, required=True, help="to start from")
    parser.add_argument("--seeds", type=int, default=3, help="runs per start (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings in parallel (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    """Train the runs, and print the tables."""
    name = f"{load_experiment(arguments.config, arguments.overrides).name}-transfer"
    forms = {"cold": [], "transfer": [f"train.init_from={arguments.source}"]}
    runs = runs_of(arguments.config, arguments.overrides, name, forms, arguments.seeds)
    train_all(runs, arguments.jobs)
    print_tables(runs)
