"""`python -m benchmarks.memory`: a step's peak memory while the catalogue grows.

What must grow is named and measured: weights, gradients, Adam's state, the stored graphs. What is
left of the peak is what the step itself needs.
"""

import argparse
import ctypes
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import GIB, answer, markdown, measured
from mdsrec.command import run_command
from mdsrec.config import Experiment
from training.data.batch import batch_of
from training.data.item_tables import ItemTables, ModalityTables, adjacency, membership
from training.data.sparse import DeviceMatrix, SparseMatrix
from training.data.windows import Samples, Step
from training.models.mdsrec.model import MDSRec
from training.step import noise_of

PROG = "benchmarks.memory"
CPU = torch.device("cpu")
LIMIT_GIB, LIMIT_SECONDS = 22.0, 3600.0
NEIGHBORS, CENTERS, MET, LENGTH, PREFIXES = 10, 32, 50, 8, 512
STEPS = 2
COLUMNS = [
    "items",
    "weights",
    "gradients",
    "Adam's state",
    "graphs",
    "peak beyond them",
    "s a step",
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {PROG}", description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=300)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        _one(arguments.items[0], arguments.dim)
        return
    rows = []
    for items in arguments.items:
        words = ["--one", "--items", str(items), "--dim", str(arguments.dim)]
        reading = measured(PROG, words, LIMIT_GIB, LIMIT_SECONDS)
        found = reading.answer
        sizes = [f"{found[key] / GIB:.3f} GiB" if found else "-" for key in _SIZES]
        seconds = f"{found['seconds']:.1f}" if found else reading.outcome
        rows.append([f"{items:,}", *sizes, seconds])
        print(" | ".join(rows[-1]), flush=True)
    print(markdown(COLUMNS, rows))


_SIZES = ("weights", "gradients", "state", "graphs", "beyond")


def _one(num_items: int, dim: int) -> None:
    """Some steps of training on a made catalogue, in this process, after a few on a small one."""
    _train(1000, dim)
    answer(**_train(num_items, dim))


def _train(num_items: int, dim: int) -> dict[str, float]:
    experiment = _experiment(dim)
    trim()
    before = memory("VmRSS")
    tables = _tables(experiment, num_items)
    model = MDSRec(experiment, tables)
    model.initialize(0)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    step = _step(num_items)
    trim()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    began = time.perf_counter()
    for number in range(STEPS):
        batch = batch_of(step, 0, 1, noise_of(model, experiment, step, (0, number)), CPU)
        loss = model.channel_weights @ model(batch) / step.num_prefixes
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = (time.perf_counter() - began) / STEPS
    named = {
        "weights": sum(p.nbytes for p in model.parameters()),
        "gradients": sum(p.grad.nbytes for p in model.parameters() if p.grad is not None),
        "state": sum(t.nbytes for state in optimizer.state.values() for t in state.values()),
        "graphs": _graph_bytes(model),
    }
    beyond = memory("VmHWM") - before - sum(named.values())
    return {**named, "beyond": beyond, "seconds": seconds}


def trim() -> None:
    """Give back what is free, so that memory counted is memory held."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory(field: str) -> int:
    """Bytes that Linux counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def _experiment(dim: int) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "memory",
            "root": "memory",
            "input": {"edition": "2018", "reviews": ["none.json"]},
            "features": {"text": {"vectors": "none.parquet"}},
            "model": {"dim": dim, "num_neighbors": NEIGHBORS, "num_centers": CENTERS},
        }
    )


def _tables(experiment: Experiment, num_items: int) -> ItemTables:
    """Every item met MET others and has NEIGHBORS neighbours, drawn at random."""
    generator = np.random.default_rng(0)
    items = np.arange(num_items)
    met = generator.integers(num_items, size=num_items * MET, dtype=np.int32)
    weights = np.full(len(met), 1 / MET, np.float32)
    near = generator.integers(num_items, size=num_items * NEIGHBORS)
    graph = adjacency(items, np.full(num_items, NEIGHBORS), near, num_items, NEIGHBORS, True)
    members = membership(items, generator.integers(CENTERS, size=num_items), CENTERS)
    cooccurrence = SparseMatrix(np.arange(num_items + 1) * MET, met, weights)
    text = ModalityTables(graph, None, members)
    return ItemTables(num_items, cooccurrence, {"text": text}, {})


def _graph_bytes(model: MDSRec) -> int:
    matrices = [m for m in model.modules() if isinstance(m, DeviceMatrix)]
    return model.items.cooccurrence.nbytes + sum(m.nbytes for m in matrices)


def _step(num_items: int) -> Step:
    """PREFIXES prefixes of users who hold LENGTH + 1 events."""
    users = PREFIXES // LENGTH
    events = np.random.default_rng(1).integers(num_items, size=users * (LENGTH + 1))
    starts = np.arange(users) * (LENGTH + 1)
    return Step(Samples(events, starts, starts + LENGTH, np.zeros(users, np.int64)), PREFIXES)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
