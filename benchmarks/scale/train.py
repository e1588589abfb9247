"""A training of many items on this machine: load, build, take some steps; seconds and memory.

The steps are those of a worker, without Ray, validation and checkpoints. The memory by arithmetic
is that of the graphs, and of E, its gradient and Adam's moments.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import distributed

from benchmarks.measure import DONE, measure, print_result
from benchmarks.memory import process_bytes
from benchmarks.scale import settings
from benchmarks.scale.results import mib, write_results
from benchmarks.sizes.replicated import adam_bytes, gradient_bytes, table_bytes
from mdsrec.command import positive_int, run_command
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.device import keep_freed_memory
from training.distributed import engine as ds
from training.distributed.control import ControlGroup
from training.models.registry import build_model
from training.step import share_of, take_step

SIZES = [20_000_000]
DIM = 16
LIMIT_GIB, LIMIT_SECONDS = 22.0, 7200.0
CPU = torch.device("cpu")
HEADER = [
    "items",
    "load, s",
    "build, s",
    "steps, s",
    "s per step",
    "peak",
    "of that before the load",
    "by arithmetic",
    "loss",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    settings.add_arguments(parser, SIZES, DIM)
    parser.add_argument("--steps", type=positive_int, default=20)


def run(arguments: argparse.Namespace) -> None:
    rows, numbers = [], {}
    for items in arguments.items:
        subject = settings.subject_of(arguments, items)
        try:
            words = [str(arguments.steps), *subject.words]
            reading = measure(__name__, words, LIMIT_GIB, LIMIT_SECONDS)
        finally:
            if not arguments.keep:
                shutil.rmtree(subject.config.parent)
        found = numbers[items] = {"outcome": reading.outcome, **reading.result}
        if reading.outcome != DONE:
            rows.append([f"{items:,}", reading.outcome, *["-"] * (len(HEADER) - 2)])
            continue
        seconds = [f"{found[key]:.1f}" for key in ("load", "build", "steps")]
        seconds.append(f"{found['steps'] / arguments.steps:.2f}")
        sizes = [mib(found[key]) for key in ("peak", "before", "expected")]
        rows.append([f"{items:,}", *seconds, *sizes, f"{found['loss']:.4f}"])
    write_results(arguments.folder, "train", HEADER, rows, numbers)


def train(experiment: Experiment, num_steps: int) -> dict[str, float]:
    """Train in one gloo rank of this process; return seconds and bytes."""
    torch.set_num_threads(max(1, round(experiment.train.cpus_requested)))  # as on a cluster
    keep_freed_memory()
    before, times = process_bytes("VmRSS"), [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(LOCAL_RANK="0", RANK="0", WORLD_SIZE="1")  # DeepSpeed reads them
        rendezvous = f"file://{folder}/rendezvous"
        distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
        group = ControlGroup(experiment.train.timeout_minutes)
        item_tables = load_item_tables(experiment, group)
        kept = sum(array.nbytes for array in item_tables.arrays().values())
        times.append(time.perf_counter())
        model = build_model(experiment, item_tables)
        model.initialize(experiment.seed)
        engine = ds.initialize(model, experiment, CPU)
        engine.train()
        times.append(time.perf_counter())
        prefixes, loss = 0, 0.0
        for number, step in zip(
            range(num_steps), SequenceReader(experiment).steps(0), strict=False
        ):
            share = share_of(engine.module, experiment, step, (0, number), CPU)
            losses = take_step(engine, experiment, share)
            loss += float(engine.module.channel_weights @ losses)
            prefixes += step.num_prefixes
        times.append(time.perf_counter())
        distributed.destroy_process_group()
    load, build, steps = (b - a for a, b in pairwise(times))
    return {
        "load": load,
        "build": build,
        "steps": steps,
        "before": before,
        "peak": process_bytes("VmHWM"),
        "kept": kept,
        "expected": kept + _bytes_of_training(experiment, item_tables.num_items),
        "loss": loss / prefixes,
    }


def _bytes_of_training(experiment: Experiment, items: int) -> int:
    """Return the bytes of E, its gradient and its moments on one rank."""
    dim = experiment.network.dim
    gradient = gradient_bytes(items, dim, experiment.steps_by_rows)
    return table_bytes(items, dim) + adam_bytes(items, dim, 1, 0) + gradient


def main(argv: Sequence[str] | None = None) -> None:
    """Train in this process and print the reading for `measure`."""
    num_steps, config, *overrides = sys.argv[1:] if argv is None else argv
    print_result(**train(load_experiment(config, overrides), int(num_steps)))


if __name__ == "__main__":
    sys.exit(run_command(__name__, main))
