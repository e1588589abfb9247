"""Weak scaling on one machine: the batch grows with the number of workers, each with one thread.

The workers are gloo processes that take the steps of training with DeepSpeed.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from benchmarks.memory import process_bytes
from mdsrec.command import add_experiment
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.text import markdown_table
from training.building import build_engine
from training.data.sequences import SequenceReader
from training.device import keep_freed_memory
from training.distributed.control import ControlGroup
from training.distributed.engine_protocol import Engine
from training.models.base import Model
from training.step import share_of, take_step

CPU = torch.device("cpu")
WARMUP_STEPS = 3
BATCH = 512  # prefixes per worker and step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=30, help="per reading (default: 30)")
    parser.add_argument("--readings", type=int, default=3, help="the median counts (default: 3)")


def run(arguments: argparse.Namespace) -> None:
    """Print the median rate of each number of workers; their readings are taken in turns."""
    rates_of: dict[int, list[float]] = {workers: [] for workers in arguments.workers}
    for _ in range(arguments.readings):
        for workers, rates in rates_of.items():
            batch = f"train.batch_size={BATCH * workers}"
            overrides = [*arguments.overrides, f"train.num_workers={workers}", batch]
            experiment = load_experiment(arguments.config, overrides)
            rates.append(reading(experiment, workers, arguments.steps).rate)
    one = statistics.median(rates_of[arguments.workers[0]])
    rows = [
        [str(workers), f"{BATCH * workers}", f"{rate:,.0f}", f"{rate / one:.2f}"]
        for workers, rate in ((w, statistics.median(rates)) for w, rates in rates_of.items())
    ]
    print(markdown_table(["workers", "batch", "prefixes/s", "times the first"], rows))


class Reading(NamedTuple):
    """What the workers reached together."""

    rate: float  # prefixes per second of all workers
    peak: int  # bytes, VmHWM of the largest worker


def reading(experiment: Experiment, workers: int, steps: int) -> Reading:
    """Train in so many processes for `steps` steps, after WARMUP_STEPS others."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, (workers, folder, experiment, steps), nprocs=workers)  # type: ignore[no-untyped-call]
        found = [json.loads(path.read_text()) for path in Path(folder).glob("worker-*.json")]
    return Reading(found[0]["rate"], max(one["peak"] for one in found))


def _worker(rank: int, workers: int, folder: str, experiment: Experiment, steps: int) -> None:
    engine = start_engine(rank, workers, folder, experiment, threads=1)
    rate = prefixes_per_second(engine, experiment, steps)
    found = {"rate": rate, "peak": process_bytes("VmHWM")}
    (Path(folder) / f"worker-{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def start_engine(
    rank: int, workers: int, folder: str, experiment: Experiment, threads: int
) -> Engine[Model]:
    """Return the engine of one of `workers` processes that rendezvous in `folder`, untrained."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(workers))
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    engine, _ = build_engine(experiment, CPU, ControlGroup(experiment.train.timeout_minutes))
    return engine


def prefixes_per_second(engine: Engine[Model], experiment: Experiment, steps: int) -> float:
    """Return the rate of all workers together over `steps` steps, after WARMUP_STEPS others."""
    engine.train()
    owners, prefixes, started = engine.module.owners, 0, 0.0
    reader = SequenceReader(experiment, order=None if owners is None else owners.order)
    for number, step in enumerate(reader.steps(0)):
        if number == WARMUP_STEPS:
            distributed.barrier()
            prefixes, started = 0, time.perf_counter()
        share = share_of(engine.module, experiment, step, (0, number), CPU)
        take_step(engine, experiment, share)
        prefixes += step.num_prefixes
        if number == WARMUP_STEPS + steps - 1:
            break
    distributed.barrier()
    return prefixes / (time.perf_counter() - started)
