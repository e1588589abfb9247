"""Loading of the item tables at several sizes: the peak of memory, and the bytes that are kept.

Three processes are measured for each size. A driver checks the tables. One rank loads them. Then
two ranks of one host load them together; their PSS counts a page that both map half for each.
"""

import argparse
import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import DONE, measure, print_result
from benchmarks.memory import process_bytes, trim_memory
from benchmarks.scale import settings
from benchmarks.scale.processes import RESET_PEAK, status_bytes
from benchmarks.scale.results import mib, write_results
from mdsrec.command import run_command
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment

SIZES = [1_000_000, 5_000_000, 20_000_000]
DIM = 16
LIMIT_GIB, LIMIT_SECONDS = 22.0, 7200.0
HEADER = [
    "items",
    "seconds",
    "kept",
    "peak of one rank",
    "peak beyond kept",
    "driver",
    "PSS of two ranks",
    "of kept",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    settings.add_arguments(parser, SIZES, DIM)


def run(arguments: argparse.Namespace) -> None:
    rows, numbers = [], {}
    for items in arguments.items:
        subject = settings.subject_of(arguments, items)
        try:
            found = {role: _measured(role, subject.words) for role in ROLES}
        finally:
            if not arguments.keep:
                shutil.rmtree(subject.config.parent)
        numbers[items] = found
        rows.append(_row(items, found))
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    write_results(arguments.folder, "load", HEADER, rows, numbers)


def _row(items: int, found: dict[str, dict[str, Any]]) -> list[str]:
    driver, one, two = (found[role] for role in ROLES)
    cells = [f"{items:,}"]
    if one["outcome"] == DONE:
        beyond = one["peak"] - one["kept"]
        cells += [f"{one['seconds']:.1f}", mib(one["kept"]), mib(one["peak"]), mib(beyond)]
    else:
        cells += [one["outcome"], "-", "-", "-"]
    cells.append(mib(driver["peak"]) if driver["outcome"] == DONE else driver["outcome"])
    if two["outcome"] != DONE:
        return [*cells, two["outcome"], "-"]
    return [*cells, mib(two["pss"]), f"{two['pss'] / two['kept']:.2f}"]


def _measured(role: str, words: list[str]) -> dict[str, Any]:
    reading = measure(__name__, [role, *words], LIMIT_GIB, LIMIT_SECONDS)
    return {"outcome": reading.outcome, **reading.result}


def check_as_driver(experiment: Experiment) -> dict[str, float]:
    """Check the tables and start Ray, as the driver of a training does, its imports included."""
    import training.run  # noqa: F401
    from training.data.table_checks import check_item_tables
    from training.distributed.ray_session import ray_session

    check_item_tables(experiment)
    with ray_session(log_to_driver=False):
        return {"peak": process_bytes("VmHWM")}


def load_as_one_rank(experiment: Experiment) -> dict[str, float]:
    """Load the tables in this process; its memory before that does not count."""
    from training.data.item_tables import load_item_tables

    before, started = _start_reading(), time.perf_counter()
    item_tables = load_item_tables(experiment)
    seconds = time.perf_counter() - started
    kept = sum(array.nbytes for array in item_tables.arrays().values())
    return {"seconds": seconds, "kept": kept, "peak": process_bytes("VmHWM") - before}


def load_as_two_ranks(experiment: Experiment) -> dict[str, float]:
    """Load the tables in two gloo ranks of this host."""
    from torch.multiprocessing.spawn import spawn

    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (folder, experiment), nprocs=2)  # type: ignore[no-untyped-call]
        found = [_read(Path(folder) / f"{rank}") for rank in range(2)]
    return {"kept": found[0][0], "pss": sum(pss for _, pss in found)}


def _rank(rank: int, folder: str, experiment: Experiment) -> None:
    from torch import distributed

    from training.data.item_tables import load_item_tables
    from training.distributed.control import ControlGroup

    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    group = ControlGroup(experiment.train.timeout_minutes)
    trim_memory()
    before = _proportional_bytes()
    distributed.barrier()
    item_tables = load_item_tables(experiment, group)
    arrays = item_tables.arrays().values()
    for array in arrays:
        array.sum()  # every page is mapped from now on
    trim_memory()
    distributed.barrier()
    pss = _proportional_bytes() - before
    (Path(folder) / f"{rank}").write_text(f"{sum(a.nbytes for a in arrays)} {pss}")
    distributed.barrier()  # until then the other maps the pages, too
    distributed.destroy_process_group()


def _read(path: Path) -> tuple[int, int]:
    kept, pss = path.read_text().split()
    return int(kept), int(pss)


def _start_reading() -> int:
    """Reset the peak of this process and return its memory."""
    gc.collect()
    trim_memory()
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    return process_bytes("VmRSS")


def _proportional_bytes() -> int:
    """Return this process's PSS: a page of n processes counts 1/n."""
    found = status_bytes("self", "Pss", "smaps_rollup")
    assert found is not None
    return found


ROLES = {"driver": check_as_driver, "rank": load_as_one_rank, "ranks": load_as_two_ranks}


def main(argv: Sequence[str] | None = None) -> None:
    """Take one reading in this process and print it for `measure`."""
    role, config, *overrides = sys.argv[1:] if argv is None else argv
    print_result(**ROLES[role](load_experiment(config, overrides)))


if __name__ == "__main__":
    sys.exit(run_command(__name__, main))
