"""A full disk in each stage: one line, nothing torn, and the undisturbed result after room is made.

The root is on a small tmpfs, which needs the right to mount; a file leaves less room on it than the
stage writes. Spark's and Ray's own temporary files are elsewhere.
"""

import argparse
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.faults.results import (
    Results,
    evaluation_results,
    run_results,
    sweep_results,
    table_results,
)
from benchmarks.faults.tries import Answer, Try, answered, report
from benchmarks.faults.world import NAME, command, whole_world, world
from mdsrec.errors import InputError

DISK_BYTES = 64 << 20
READS = {  # what each stage finds on the disk, of the world's root
    "etl": [],
    "training": ["dataset"],
    "evaluation": ["dataset", "runs"],
    "tuning": ["dataset"],
}
WRITES = {
    "etl": ["dataset"],
    "training": [f"runs/{NAME}/best.safetensors", f"runs/{NAME}/checkpoints"],
    "evaluation": [f"runs/{NAME}/ranks", f"runs/{NAME}/rivals", f"runs/{NAME}/report.html"],
    "tuning": [f"sweeps/{NAME}"],
}
AGAIN = {"tuning": ["--resume"]}  # the words that continue a stage, if it needs any
EVALUATED = ("ranks", "rivals", "metrics.json", "weights.json", "cases.json", "report.html")
RESULTS: dict[str, Callable[[Path], Results]] = {
    "etl": table_results,
    "training": partial(run_results, name=NAME),
    "evaluation": partial(evaluation_results, name=NAME),
    "tuning": partial(sweep_results, name=NAME),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to work and report")
    parser.add_argument("--stages", nargs="+", choices=READS, default=list(READS))
    parser.add_argument("--tries", type=int, default=3, help="of each stage (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the room that is left (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    """Fill the disk before each stage, and report how it answered."""
    folder = arguments.folder.absolute()
    make = whole_world if "tuning" in arguments.stages else world
    config, rng = make(folder / "world"), random.Random(arguments.seed)
    tries = []
    for stage in arguments.stages:
        for _ in range(arguments.tries):
            share = rng.random()
            with small_disk(folder / "disk") as disk:
                tries += _try(stage, config, disk, share)
            print(*(f"{one.kind}: {one.answer}: {one.said}" for one in tries[-2:]), sep="\n")
    report(folder, "disk", tries)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a tmpfs of DISK_BYTES at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise InputError(
            f"{folder}: no tmpfs can be mounted there ({done.stderr.strip()}): be root"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _try(stage: str, config: Path, disk: Path, share: float) -> list[Try]:
    """Run a stage without room, then with room -> the answers to both."""
    made, root = config.parent / "root", disk / "root"
    root.mkdir()
    for name in READS[stage]:
        shutil.copytree(made / name, root / name)
    if stage == "evaluation":
        _forget(root / "runs" / NAME)
    room = int(share * sum(_size(made / name) for name in WRITES[stage]))
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - room)))
    words = [stage, str(config), f"root={root}"]
    ended = command(words, disk.parent)
    expected = RESULTS[stage](made)
    right = ended.code == 0 and RESULTS[stage](root) == expected
    what = f"{room >> 10:,} KiB left"
    first = answered(f"{stage}, full", what, ended.code, ended.output, right)
    if first.answer == Answer.LINE and ended.code != 2:
        first = Try(first.kind, what, Answer.TRACEBACK, f"exit code {ended.code}: {first.said}")
    ballast.unlink()
    again = command([*words, *AGAIN.get(stage, [])], disk.parent)
    same = again.code == 0 and RESULTS[stage](root) == expected
    said = again.output.strip().splitlines()[-1:]
    after = Answer.SAME if same else Answer.SILENT
    return [first, Try(f"{stage}, after room is made", what, after, "".join(said))]


def _forget(run: Path) -> None:
    """Delete what an evaluation wrote into a run."""
    for name in EVALUATED:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    found = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in found if file.is_file())
