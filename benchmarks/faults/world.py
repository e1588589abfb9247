"""A small catalogue with its tables, a trained and evaluated run, and commands on it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdsrec.packages import child_environment

CONFIG = """
name = "world"
root = "{folder}/root"

[input]
edition = "2018"
reviews = ["{folder}/raw/reviews.json.gz"]
metadata = ["{folder}/raw/metadata.json.gz"]

[sequences]
k_core = 2

[features.image]
vectors = "{folder}/raw/image.parquet"

[spark]
master = "local[2]"
driver_memory = "1g"
partitions = 2

[model]
dim = 16
inner_dim = 16
max_length = 10
num_centers = 4
num_neighbors = 5

[train]
max_epochs = 2

[eval]
num_workers = 1

[tune]
trials = 2
concurrent = 1

[tune.space]
optim.lr = {{ choice = [1e-3, 3e-3] }}
"""
STAGES = ("etl", "training", "evaluation")
LONGEST, SLOWEST = 600.0, 3600.0  # seconds of a command, and of one without a fault


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    output: str  # standard output and error


def catalogue(folder: Path) -> Path:
    """Return the configuration of the world in `folder`; its raw files are made once."""
    config = folder / "world.toml"
    if not config.exists():
        folder.mkdir(parents=True, exist_ok=True)
        size = ["--users", "200", "--items", "120"]
        _demand(command(["etl.synthetic", str(folder / "raw"), *size], folder))
        config.write_text(CONFIG.format(folder=folder.absolute()))
    return config


def world(folder: Path) -> Path:
    """Return the configuration of the world in `folder`; its tables and run are made once."""
    config = catalogue(folder)
    if not (folder / "root" / "runs" / "world" / "report.html").exists():
        for stage in STAGES:
            print(f"making the world: {stage}", flush=True)
            _demand(command([stage, str(config)], folder, seconds=SLOWEST))
    return config


def command(
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str | None] | None = None,
    seconds: float = LONGEST,
) -> Ended:
    """Run `python -m WORDS` in `folder` to its end, and kill what it started and left."""
    given = child_environment() | {"PYTHONUNBUFFERED": "1"}
    for name, value in (environment or {}).items():
        if value is None:
            given.pop(name, None)
        else:
            given[name] = value
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nTraceback (most recent call last): none, but no end within {seconds:g} s"
    return Ended(process.returncode, output)


def _demand(ended: Ended) -> None:
    if ended.code:
        raise SystemExit(ended.output)
