"""Items without training events: recall before and after `append`, and left out of the loss.

`sequences.cold_share` holds out items by a hash of their id. Each split puts another suffix on all
ids, so another share is held out. Half of the held-out items, by a second hash, are for choosing;
the others are for the report.
"""

import argparse
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.growth import raw
from benchmarks.growth.starts import SHOWN
from benchmarks.seeds import CUTOFFS, columns_of, mean_and_deviation, train_all
from evaluation.metrics.events import Ranking, all_events
from mdsrec import schema, tables
from mdsrec.arrays import Floats
from mdsrec.command import add_experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.text import markdown_table
from tuning.stages import RunSpec

SUFFIXES = "XYZVWU"  # of the splits
LOSSES = {"negatives": "wrong answers", "excluded": "left out"}
TARGETS = ("never trained, to choose", "never trained, the others", "trained", "all")
Means = Mapping[str, Floats]  # of the metrics SHOWN, by targets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_experiment(parser)
    parser.add_argument(
        "--splits", type=int, choices=range(1, len(SUFFIXES) + 1), default=3, help="(default: 3)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="trainings in parallel (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    """Train and rank two runs a split, with and without appended rows, and print the table."""
    experiment = load_experiment(arguments.config, arguments.overrides)
    if not experiment.sequences.cold_share:
        raise InputError("sequences.cold_share is 0: it holds out the items to measure")
    found: dict[tuple[str, str], list[Means]] = {}
    for suffix in SUFFIXES[: arguments.splits]:
        root = f"{experiment.root}/growth/cold-{suffix}"
        reviews, metadata = (
            [_renamed(source, f"{root}/raw", suffix) for source in sources]
            for sources in raw.raw_files(experiment)
        )
        common = [*arguments.overrides, f"root={root}"]
        common += [f"input.reviews={reviews}", f"input.metadata={metadata}"]
        runs = {
            loss: RunSpec(
                "split",
                arguments.config,
                [*common, f"train.untrained_items={loss}", f"name={loss}"],
            )
            for loss in LOSSES
        }
        train_all(list(runs.values()), arguments.jobs)
        for loss, each in runs.items():
            for rows, means in _before_and_after(each, suffix).items():
                found.setdefault((loss, rows), []).append(means)
    print(_table(found))


def _renamed(source: str, folder: str, suffix: str) -> str:
    target = Path(folder) / Path(source).name
    if not target.exists():
        raw.write_rows(target, raw.with_suffix(raw.rows_of([source]), suffix))
    return str(target)


def _before_and_after(run: RunSpec, suffix: str) -> dict[str, Means]:
    """Evaluate a run without and with appended rows -> means by rows."""
    run.run_stage("evaluation append", "--undo")
    run.run_stage("evaluation")
    before = _means(run, suffix)
    run.run_stage("evaluation append")
    run.run_stage("evaluation")
    return {"as trained": before, "appended": _means(run, suffix)}


def _means(run: RunSpec, suffix: str) -> Means:
    """Return the means over the test events of each kind of target."""
    events = all_events(Ranking(run.paths.uri), CUTOFFS)
    items = tables.read_table(f"{run.experiment.root}/dataset/items", schema.ITEMS)
    cold = items["num_train"].to_numpy() == 0
    ids = [item.removesuffix(suffix) for item in items["item_id"].to_pylist()]
    choosing = np.array([zlib.crc32(f"choose {item}".encode()) % 2 == 0 for item in ids])
    masks = [cold & choosing, cold & ~choosing, ~cold, np.ones_like(cold)]
    values = events.values[:, columns_of(SHOWN)]
    return {
        name: values[mask[events.targets]].mean(axis=0)
        for name, mask in zip(TARGETS, masks, strict=True)
    }


def _table(found: Mapping[tuple[str, str], Sequence[Means]]) -> str:
    header = [f"{name}, {targets}" for targets in TARGETS for name in SHOWN]
    rows = []
    for (loss, row), splits in found.items():
        cells: list[str] = []
        for targets in TARGETS:
            values = np.array([means[targets] for means in splits])
            cells += map(mean_and_deviation, values.T)
        rows.append([LOSSES[loss], row, *cells])
    return markdown_table(["untrained items in the loss", "their rows", *header], rows)
