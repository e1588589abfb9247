"""A full disk in each stage: one line, nothing torn, and the undisturbed result after room is made.

The root is on a small tmpfs, which needs the right to mount; a file leaves less room on it than the
stage writes. Spark's and Ray's own temporary files are elsewhere.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.faults.tries import Answer, Try, answered, report
from benchmarks.faults.world import STAGES, command, world
from mdsrec import tables
from mdsrec.errors import InputError

DISK_BYTES = 64 << 20
READS = {  # what each stage finds on the disk, of the world's root
    "etl": [],
    "training": ["dataset"],
    "evaluation": ["dataset", "runs"],
}
WRITES = {
    "etl": ["dataset"],
    "training": ["runs/world/best.safetensors", "runs/world/checkpoints"],
    "evaluation": ["runs/world/ranks", "runs/world/rivals", "runs/world/report.html"],
}
EVALUATED = ("ranks", "rivals", "metrics.json", "weights.json", "cases.json", "report.html")
WITHOUT_TIMES = ("seconds", "prefixes_per_second", "memory", "date", "rss", "gib")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to work and report")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--tries", type=int, default=3, help="of each stage (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the room that is left (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    """Fill the disk before each stage, and report how it answered."""
    folder = arguments.folder.absolute()
    config, rng = world(folder / "world"), random.Random(arguments.seed)
    tries = []
    for stage in arguments.stages:
        for _ in range(arguments.tries):
            share = rng.random()
            with small_disk(folder / "disk") as disk:
                tries += _try(stage, config, disk, share)
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
        _forget(root / "runs" / "world")
    room = int(share * sum(_size(made / name) for name in WRITES[stage]))
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - room)))
    words = [stage, str(config), f"root={root}"]
    ended = command(words, disk.parent)
    result = _result(root, stage) if ended.code == 0 else ""
    expected = _result(made, stage)
    what = f"{room >> 10:,} KiB left"
    first = answered(f"{stage}, full", what, ended.code, ended.output, result == expected)
    if first.answer == Answer.LINE and ended.code != 2:
        first = Try(first.kind, what, Answer.TRACEBACK, f"exit code {ended.code}: {first.said}")
    ballast.unlink()
    again = command(words, disk.parent)
    same = again.code == 0 and _result(root, stage) == expected
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


def _result(root: Path, stage: str) -> str:
    """Return a digest of what a stage made, without its times."""
    run, digest = root / "runs" / "world", hashlib.sha256()
    if stage == "training":
        digest.update((run / "best.safetensors").read_bytes())
        history = json.loads((run / "history.json").read_text())
        digest.update(json.dumps(_timeless(history["epochs"])).encode())
    elif stage == "evaluation":
        digest.update((run / "metrics.json").read_bytes())
        _add_tables(digest, run, ["ranks"])
    else:
        _add_tables(digest, root / "dataset", None)
    return digest.hexdigest()


def _add_tables(digest: Any, folder: Path, names: list[str] | None) -> None:
    found = sorted(path.parent for path in folder.rglob(tables.MANIFEST))
    for table in found if names is None else [folder / name for name in names]:
        manifest = tables.open_table(str(table))
        digest.update(f"{table.relative_to(folder)} {manifest.fingerprint}".encode())
        for file in tables.data_files(str(table), manifest):
            digest.update(repr(pq.read_table(file).to_pylist()).encode())


def _timeless(epochs: list[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {key: epoch[key] for key in epoch if not any(word in key for word in WITHOUT_TIMES)}
        for epoch in epochs
    ]
