"""A month of new events: a warm start from the run before against a cold start, and no training.

The first share of every user's events makes the first month; all events make the second one. A run
of the first month is trained with the configuration as it is. On the second month, a run starts
cold, one starts from the run of the first month, one does the same in fewer epochs, and the run of
the first month itself is evaluated with appended items.
"""

import argparse
from pathlib import Path

from benchmarks.growth import raw
from benchmarks.growth.starts import print_tables
from benchmarks.seeds import Variants, runs_of, train_all
from mdsrec.command import add_experiment
from mdsrec.config.loading import load_experiment
from tuning.stages import RunSpec

FIRST = "first"  # of the first month
OLD = "appended, not trained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_experiment(parser)
    parser.add_argument("--share", type=float, default=0.8, help="of events at first (default: .8)")
    parser.add_argument("--short", type=int, default=4, help="epochs of the short run (default: 4)")
    parser.add_argument("--seeds", type=int, default=3, help="runs per start (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings in parallel (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    """Train all runs on one root, and print the tables."""
    experiment = load_experiment(arguments.config, arguments.overrides)
    reviews, _ = raw.raw_files(experiment)
    part = Path(f"{experiment.root}/growth/first-{arguments.share}.json.gz")
    if not part.exists():
        raw.write_rows(part, raw.first_events(raw.rows_of(reviews), arguments.share))
    name = f"{experiment.name}-months"

    def runs(starts: Variants, *more: str) -> list[RunSpec]:
        common = [*arguments.overrides, *more]
        return runs_of(arguments.config, common, name, starts, arguments.seeds)

    first = runs({FIRST: []}, f"input.reviews=['{part}']")
    if not all(each.history().get("finished") for each in first):
        train_all(first, arguments.jobs)
    second = runs(second_month(name, arguments.short))
    train_all(second, arguments.jobs)
    old = [each._replace(label=OLD) for each in runs({FIRST: []})]
    for each in old:
        each.run_stage("evaluation append")
        each.run_stage("evaluation")
    print_tables(second, old)


def second_month(name: str, short: int) -> dict[str, list[str]]:
    """Return the overrides of the runs of the second month by their start."""
    warm = [f"train.init_from={name}-{FIRST}-{{seed}}"]
    epochs = [f"train.max_epochs={short}", f"optim.decay_epochs={short}"]
    return {"cold": [], "warm": warm, f"warm, {short} epochs": [*warm, *epochs]}
