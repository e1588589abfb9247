"""The peak memory of a training step by the number of items: `python -m benchmarks.memory`.

Weights, gradients, Adam's state and the stored graphs must grow with the items, so the size of each
is printed. The rest of the peak belongs to the step itself.
"""

import argparse
import ctypes
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.measure import GIB, measure, print_result
from mdsrec.command import run_command
from mdsrec.config import Experiment
from mdsrec.text import markdown_table
from training.data.batch import batch_of
from training.data.device_matrices import DeviceMatrix
from training.data.item_tables import ItemTables, ModalityTables
from training.data.long_rows import LongRows
from training.data.shared_arrays import zeros
from training.data.sparse import SparseMatrix
from training.data.table_arrays import Lists, member_rows, neighbor_rows
from training.data.windows import Samples, Step
from training.models.mdsrec.model import MDSRec
from training.step import noise_of

PROG = "benchmarks.memory"
CPU = torch.device("cpu")
LIMIT_GIB, LIMIT_SECONDS = 22.0, 3600.0
NEIGHBORS, CENTERS, COOCCURRING, LENGTH, PREFIXES = 10, 32, 50, 8, 512
STEPS = 2
COLUMNS = [
    "items",
    "weights",
    "gradients",
    "Adam's state",
    "graphs",
    "peak beyond these",
    "s per step",
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {PROG}", description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=300, help="of every vector")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        _measure_here(arguments.items[0], arguments.dim)
        return
    rows = []
    for items in arguments.items:
        options = ["--one", "--items", str(items), "--dim", str(arguments.dim)]
        reading = measure(PROG, options, LIMIT_GIB, LIMIT_SECONDS)
        result = reading.result
        sizes = [f"{result[key] / GIB:.3f} GiB" if result else "-" for key in _SIZES]
        seconds = f"{result['seconds']:.1f}" if result else reading.outcome
        rows.append([f"{items:,}", *sizes, seconds])
        print(" | ".join(rows[-1]), flush=True)
    print(markdown_table(COLUMNS, rows))


_SIZES = ("weights", "gradients", "state", "graphs", "beyond")


def _measure_here(num_items: int, dim: int) -> None:
    """Print the sizes of a training on random tables in this process, after one on small tables."""
    _train(1000, dim)
    print_result(**_train(num_items, dim))


def _train(num_items: int, dim: int) -> dict[str, float]:
    experiment = random_experiment(dim)
    trim_memory()
    before = process_bytes("VmRSS")
    tables = random_tables(experiment, num_items)
    model = MDSRec(experiment, tables)
    model.initialize(0)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    step = random_step(num_items)
    trim_memory()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    started = time.perf_counter()
    for number in range(STEPS):
        batch = batch_of(step, 0, 1, noise_of(model, experiment, step, (0, number)), CPU)
        loss = model.channel_weights @ model(batch) / step.num_prefixes
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = (time.perf_counter() - started) / STEPS
    sizes = {
        "weights": sum(p.nbytes for p in model.parameters()),
        "gradients": sum(p.grad.nbytes for p in model.parameters() if p.grad is not None),
        "state": sum(t.nbytes for state in optimizer.state.values() for t in state.values()),
        "graphs": _graph_bytes(model),
    }
    beyond = process_bytes("VmHWM") - before - sum(sizes.values())
    return {**sizes, "beyond": beyond, "seconds": seconds}


def trim_memory() -> None:
    """Return free memory to the system, so that only memory in use is counted."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def process_bytes(field: str) -> int:
    """Return a field of /proc/self/status, as VmRSS, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def random_experiment(dim: int) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "memory",
            "root": "memory",
            "input": {"edition": "2018", "reviews": ["none.json"]},
            "features": {"text": {"vectors": "none.parquet"}},
            "model": {"dim": dim, "num_neighbors": NEIGHBORS, "num_centers": CENTERS},
        }
    )


def random_tables(experiment: Experiment, num_items: int) -> ItemTables:
    """Draw COOCCURRING co-occurring items and NEIGHBORS neighbors of every item at random."""
    generator = np.random.default_rng(0)
    items = np.arange(num_items)
    others = generator.integers(num_items, size=num_items * COOCCURRING, dtype=np.int32)
    weights = np.full(len(others), 1 / COOCCURRING, np.float32)
    neighbors = generator.integers(num_items, size=num_items * NEIGHBORS)
    lists = [Lists(items, NEIGHBORS * (items + 1), neighbors)]
    graph = neighbor_rows(lists, num_items, num_items, NEIGHBORS, True, zeros)
    centers = pa.record_batch(
        [items, generator.integers(CENTERS, size=num_items)], ["item", "center"]
    )
    members = member_rows(lambda: [centers], num_items, CENTERS, zeros)
    cooccurrence = SparseMatrix(np.arange(num_items + 1) * COOCCURRING, others, weights)
    text = ModalityTables(graph, None, members)
    return ItemTables(num_items, cooccurrence, {"text": text}, {})


def _graph_bytes(model: MDSRec) -> int:
    matrices = [m for m in model.modules() if isinstance(m, DeviceMatrix | LongRows)]
    return model.items.cooccurrence.nbytes + sum(m.nbytes for m in matrices)


def random_step(num_items: int, prefixes: int = PREFIXES) -> Step:
    """Return a step of users with LENGTH + 1 events each."""
    users = prefixes // LENGTH
    events = np.random.default_rng(1).integers(num_items, size=users * (LENGTH + 1))
    starts = np.arange(users) * (LENGTH + 1)
    return Step(Samples(events, starts, starts + LENGTH, np.zeros(users, np.int64)), prefixes)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
