"""Item rows whole on every rank beside rows of its own: prefixes per second and memory of a rank.

The ranks are gloo processes of this machine, each with one thread. Readings are taken in turns.
"""

import argparse
import shutil
import statistics

from benchmarks.scale import settings
from benchmarks.scale.results import mib, write_results
from benchmarks.training.workers import Reading, reading
from mdsrec.command import positive_int
from mdsrec.config.loading import load_experiment

SIZES = [4_000, 100_000, 1_000_000]
DIM, RANKS = 64, 2
FORMS = ("replicated", "sharded")
HEADER = ["items", "ranks", "train.item_table", "prefixes/s", "ratio", "peak of a rank", "ratio"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    settings.add_arguments(parser, SIZES, DIM)
    parser.add_argument("--ranks", type=positive_int, nargs="+", default=[RANKS])
    parser.add_argument("--steps", type=positive_int, default=20, help="in a reading")
    parser.add_argument("--readings", type=positive_int, default=3, help="the median counts")


def run(arguments: argparse.Namespace) -> None:
    rows, numbers = [], {}
    for items in arguments.items:
        subject = settings.subject_of(arguments, items)
        try:
            for ranks in arguments.ranks:
                taken = _in_turns(subject, ranks, arguments.steps, arguments.readings)
                numbers[f"{items}/{ranks}"] = taken
                rows += rows_of(items, ranks, taken)
        finally:
            if not arguments.keep:
                shutil.rmtree(subject.config.parent)
    write_results(arguments.folder, "owned", HEADER, rows, numbers)


def _in_turns(
    subject: settings.Subject, ranks: int, steps: int, readings: int
) -> dict[str, list[Reading]]:
    taken: dict[str, list[Reading]] = {form: [] for form in FORMS}
    for _ in range(readings):
        for form, found in taken.items():
            overrides = [f"train.item_table={form}", f"train.num_workers={ranks}"]
            experiment = load_experiment(subject.config, [*subject.overrides, *overrides])
            found.append(reading(experiment, ranks, steps))
    return taken


def rows_of(items: int, ranks: int, taken: dict[str, list[Reading]]) -> list[list[str]]:
    """Return a row for each form; ratios are to the replicated one."""
    rates = {form: statistics.median(one.rate for one in found) for form, found in taken.items()}
    peaks = {form: max(one.peak for one in found) for form, found in taken.items()}
    first = FORMS[0]
    return [
        [
            f"{items:,}",
            str(ranks),
            form,
            f"{rates[form]:,.0f}",
            f"{rates[form] / rates[first]:.2f}",
            mib(peaks[form]),
            f"{peaks[form] / peaks[first]:.2f}",
        ]
        for form in FORMS
    ]
