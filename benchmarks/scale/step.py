"""A step under the sampled loss with centers off, at several sizes: seconds and bytes written.

One gloo rank takes the steps of training. Adam's share is counted apart: it is exact, so it writes
the whole table and its moments. The rest should follow the rows that a step reads: in a small
catalogue more of them coincide. With `optim.lazy_adam=true` Adam only writes these rows.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import distributed

from benchmarks.measure import DONE, measure, print_result
from benchmarks.scale import settings
from benchmarks.scale.results import mib, write_results
from benchmarks.scale.writes import CountWrites, adam_seconds
from benchmarks.training.workers import start_engine
from mdsrec.command import positive_int, run_command
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from training.data.sequences import SequenceReader
from training.data.windows import Step
from training.distributed.engine_protocol import Engine
from training.models.base import Model
from training.step import share_of, take_step

SIZES = [20_000, 200_000, 2_000_000]
DIM = 64
WARMUP = 3
OPERATORS = 8  # that write most, in the numbers
LIMIT_GIB, LIMIT_SECONDS = 22.0, 7200.0
BOUND = "graph.max_cooccurrences=100"
HEADER = [
    "items",
    "prepare, ms",
    "step, ms",
    "of that Adam, ms",
    "beside Adam, ms",
    "ratio",
    "Adam writes",
    "others write",
    "ratio",
    "rows read",
]


class Taken(NamedTuple):
    """A step that was taken, and the distinct rows of the table that it read."""

    prepare_seconds: float
    seconds: float
    rows: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    settings.add_arguments(parser, SIZES, DIM)
    parser.set_defaults(users=20_000)
    parser.add_argument("--steps", type=positive_int, default=20, help="timed (default: 20)")
    parser.add_argument("--readings", type=positive_int, default=3, help="the median counts")


def run(arguments: argparse.Namespace) -> None:
    """Measure the sizes in turns, so that a busy machine slows all of them."""
    arguments.overrides.insert(0, BOUND)
    subjects = {items: settings.subject_of(arguments, items) for items in arguments.items}
    readings: dict[int, list[dict[str, float]]] = {items: [] for items in subjects}
    try:
        for _ in range(arguments.readings):
            for items, subject in subjects.items():
                words = [str(arguments.steps), *subject.words]
                reading = measure(__name__, words, LIMIT_GIB, LIMIT_SECONDS)
                if reading.outcome != DONE:
                    print(f"{items:,} items: {reading.outcome}", file=sys.stderr, flush=True)
                    continue
                readings[items].append(dict(reading.result))
    finally:
        for subject in subjects.values():
            if not arguments.keep:
                shutil.rmtree(subject.config.parent)
    rows: list[list[str]] = []
    medians = {items: _median(found) for items, found in readings.items() if found}
    first = next(iter(medians.values()), {})
    for items, found in medians.items():
        rest = f"{found['rest_seconds'] / first['rest_seconds']:.2f}"
        writes = f"{found['rest_bytes'] / first['rest_bytes']:.2f}"
        times = ("prepare_seconds", "step_seconds", "adam_seconds", "rest_seconds")
        cells = [f"{1000 * found[key]:.1f}" for key in times]
        sizes = [
            mib(found["adam_bytes"]),
            mib(found["rest_bytes"]),
            writes,
            f"{found['rows']:,.0f}",
        ]
        rows.append([f"{items:,}", *cells, rest, *sizes])
    write_results(arguments.folder, "step", HEADER, rows, readings)


def _median(readings: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(r[key] for r in readings) for key in readings[0]}


def take_readings(experiment: Experiment, num_steps: int) -> dict[str, float]:
    """Take steps in one gloo rank; return medians of seconds, and the mean bytes of as many."""
    with tempfile.TemporaryDirectory() as folder:
        engine = start_engine(0, 1, folder, experiment, threads=1)
        steps = _numbered_steps(experiment)
        engine.train()
        prepare, total, of_adam, rows = [], [], [], []
        with adam_seconds() as adam:
            for number in range(WARMUP + num_steps):
                taken = _timed_step(engine, experiment, *next(steps))
                if number >= WARMUP:
                    prepare.append(taken.prepare_seconds)
                    total.append(taken.seconds)
                    of_adam.append(sum(adam))
                    rows.append(taken.rows)
                adam.clear()
        with CountWrites() as counted:
            for _ in range(num_steps):
                _timed_step(engine, experiment, *next(steps))
        distributed.destroy_process_group()
    rest = [step - adam for step, adam in zip(total, of_adam, strict=True)]
    return {
        "prepare_seconds": statistics.median(prepare),
        "step_seconds": statistics.median(total),
        "adam_seconds": statistics.median(of_adam),
        "rest_seconds": statistics.median(rest),
        "rows": statistics.mean(rows),
        "adam_bytes": counted.of_adam / num_steps,
        "rest_bytes": counted.total / num_steps,
        **_largest(counted.of_operator, num_steps),
    }


def _largest(size_of: dict[str, int], num_steps: int) -> dict[str, float]:
    """Return the bytes per step of the operators that write most."""
    most = sorted(size_of.items(), key=lambda pair: -pair[1])[:OPERATORS]
    return {f"bytes of {name}": size / num_steps for name, size in most}


def _numbered_steps(experiment: Experiment) -> Iterator[tuple[Step, tuple[int, int]]]:
    """Yield steps, epoch after epoch, each with its (epoch, number)."""
    reader, epoch = SequenceReader(experiment), 0
    while True:
        for number, step in enumerate(reader.steps(epoch)):
            yield step, (epoch, number)
        epoch += 1


def _timed_step(
    engine: Engine[Model], experiment: Experiment, step: Step, at: tuple[int, int]
) -> Taken:
    """Prepare a step, as a background thread does, and take it."""
    started = time.perf_counter()
    share = share_of(engine.module, experiment, step, at, torch.device("cpu"))
    prepared = time.perf_counter()
    take_step(engine, experiment, share)
    seconds = time.perf_counter() - prepared
    rows = sum(len(batch.row_ids) for batch in share.batches if batch.row_ids is not None)
    return Taken(prepared - started, seconds, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Take one reading in this process and print it for `measure`."""
    num_steps, config, *overrides = sys.argv[1:] if argv is None else argv
    print_result(**take_readings(load_experiment(config, overrides), int(num_steps)))


if __name__ == "__main__":
    sys.exit(run_command(__name__, main))
