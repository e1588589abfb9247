"""Weak scaling on one machine: the batch grows with the number of workers, each with one thread.

The workers are gloo processes that take the steps of training with DeepSpeed.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from mdsrec.command import add_experiment
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.text import markdown_table
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.distributed import engine as ds
from training.distributed.engine_protocol import Engine
from training.models.base import Model
from training.models.registry import build_model
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
            rates.append(_rate(experiment, workers, arguments.steps))
    one = statistics.median(rates_of[arguments.workers[0]])
    rows = [
        [str(workers), f"{BATCH * workers}", f"{rate:,.0f}", f"{rate / one:.2f}"]
        for workers, rate in ((w, statistics.median(rates)) for w, rates in rates_of.items())
    ]
    print(markdown_table(["workers", "batch", "prefixes/s", "times the first"], rows))


def _rate(experiment: Experiment, workers: int, steps: int) -> float:
    """Return the prefixes per second of all workers together."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, (workers, folder, experiment, steps), nprocs=workers)  # type: ignore[no-untyped-call]
        return float((Path(folder) / "rate").read_text())


def _worker(rank: int, workers: int, folder: str, experiment: Experiment, steps: int) -> None:
    engine = start_engine(rank, workers, folder, experiment, threads=1)
    rate = prefixes_per_second(engine, experiment, steps)
    if rank == 0:
        (Path(folder) / "rate").write_text(str(rate))
    distributed.destroy_process_group()


def start_engine(
    rank: int, workers: int, folder: str, experiment: Experiment, threads: int
) -> Engine[Model]:
    """Return the engine of one of `workers` processes that rendezvous in `folder`, untrained."""
    torch.set_num_threads(threads)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(workers))
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    model = build_model(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    return ds.initialize(model, experiment, CPU)


def prefixes_per_second(engine: Engine[Model], experiment: Experiment, steps: int) -> float:
    """Return the rate of all workers together over `steps` steps, after WARMUP_STEPS others."""
    engine.train()
    prefixes, started = 0, 0.0
    for number, step in enumerate(SequenceReader(experiment).steps(0)):
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
