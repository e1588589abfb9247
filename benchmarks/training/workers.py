"""Weak scaling on one machine: every worker keeps the one-worker batch, on one thread.

The workers are processes that meet by gloo, and take the steps of training through DeepSpeed.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from benchmarks.measure import markdown
from mdsrec.command import OVERRIDES_HELP
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.distributed import engine as ds
from training.models.registry import build_model
from training.step import share_of, take_step

CPU = torch.device("cpu")
WARM = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=OVERRIDES_HELP)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--readings", type=int, default=3, help="the median counts")


def run(arguments: argparse.Namespace) -> None:
    """Readings of each number of workers are taken in turns."""
    found: dict[int, list[float]] = {workers: [] for workers in arguments.workers}
    for _ in range(arguments.readings):
        for workers, rates in found.items():
            batch = f"train.batch_size={512 * workers}"
            overrides = [*arguments.overrides, f"train.num_workers={workers}", batch]
            experiment = load_experiment(arguments.config, overrides)
            rates.append(_rate(experiment, workers, arguments.steps))
    one = statistics.median(found[arguments.workers[0]])
    rows = [
        [str(workers), f"{512 * workers}", f"{rate:,.0f}", f"{rate / one:.2f}"]
        for workers, rate in ((w, statistics.median(rates)) for w, rates in found.items())
    ]
    print(markdown(["workers", "batch", "prefixes/s", "times the first"], rows))


def _rate(experiment: Experiment, workers: int, steps: int) -> float:
    """Prefixes a second of the whole group."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, (workers, folder, experiment, steps), nprocs=workers)  # type: ignore[no-untyped-call]
        return float((Path(folder) / "rate").read_text())


def _worker(rank: int, workers: int, folder: str, experiment: Experiment, steps: int) -> None:
    engine = joined(rank, workers, folder, experiment, threads=1)
    rate = prefixes_per_second(engine, experiment, steps)
    if rank == 0:
        (Path(folder) / "rate").write_text(str(rate))
    distributed.destroy_process_group()


def joined(rank: int, workers: int, folder: str, experiment: Experiment, threads: int) -> Any:
    """The engine of one of `workers` processes that meet in `folder`, its weights fresh."""
    torch.set_num_threads(threads)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(workers))
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers)
    model = build_model(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    return ds.initialize(model, experiment, CPU)


def prefixes_per_second(engine: Any, experiment: Experiment, steps: int) -> float:
    """Of the whole group, over the `steps` steps of the first epoch after WARM others."""
    engine.train()
    prefixes, began = 0, 0.0
    for number, step in enumerate(SequenceReader(experiment).steps(0)):
        if number == WARM:
            distributed.barrier()
            prefixes, began = 0, time.perf_counter()
        share = share_of(engine.module, experiment, step, (0, number), CPU)
        take_step(engine, experiment, share)
        prefixes += step.num_prefixes
        if number == WARM + steps - 1:
            break
    distributed.barrier()
    return prefixes / (time.perf_counter() - began)
