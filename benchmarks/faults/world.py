"""A small catalogue with its tables, a trained and evaluated run, and commands on it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.experiment import write_experiment
from etl.synthetic.catalogue import write_catalogue
from mdsrec.packages import child_environment

SECTIONS: dict[str, dict[str, Any]] = {
    "sequences": {"k_core": 2},
    "model": {
        "dim": 16,
        "inner_dim": 16,
        "max_length": 10,
        "num_centers": 4,
        "num_neighbors": 5,
    },
    "train": {"max_epochs": 2},
    "eval": {"num_workers": 1},
    "tune": {
        "trials": 2,
        "concurrent": 1,
        "scheduler": "none",
        "space": {"optim": {"lr": {"choice": [1e-3, 3e-3]}}},
    },
}
NAME = "world"
STAGES = ("etl", "training", "evaluation")
LONGEST, SLOWEST = 600.0, 3600.0  # seconds of a command, and of one without a fault


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    output: str  # standard output and error


def catalogue(folder: Path) -> Path:
    """Return the configuration of the world in `folder`; its raw files are made once."""
    folder = folder.absolute()
    config = folder / f"{NAME}.toml"
    if not config.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_catalogue(folder / "raw", num_users=200, num_items=120, seed=0)
        write_experiment(config, folder / "root", folder / "raw", SECTIONS)
    return config


def world(folder: Path) -> Path:
    """Return the configuration of the world in `folder`; its tables and run are made once."""
    config = catalogue(folder)
    if not (config.parent / "root" / "runs" / NAME / "report.html").exists():
        for stage in STAGES:
            _make([stage, str(config)], folder)
    return config


def whole_world(folder: Path) -> Path:
    """Return the configuration of a world that has a sweep, and an export in `export`, besides."""
    config = world(folder)
    root, exported = config.parent / "root", config.parent / "export"
    if not (exported / "export.json").exists():
        _make(["evaluation", "recommend", str(config)], folder)
        _make(["tuning", str(config)], folder)
        _make(["evaluation", "export", f"{root}/runs/{NAME}", str(exported)], folder)
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


def _make(words: Sequence[str], folder: Path) -> None:
    print(f"making the world: {' '.join(words[:-1])}", flush=True)
    ended = command(words, folder, seconds=SLOWEST)
    if ended.code:
        raise SystemExit(ended.output)
