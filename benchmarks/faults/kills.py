"""Kills and signals at random moments of every stage; the same command then completes its work.

A try starts a stage, sends SIGKILL, SIGTERM or SIGINT to all its processes or to its driver only,
and runs the same command again to its end. The results must be those of an undisturbed stage: rows
of all tables, epochs and weights, ranks and metrics, outcomes of trials.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.faults.experiment import write_experiment
from benchmarks.faults.results import (
    Results,
    evaluation_results,
    run_results,
    sweep_results,
    table_results,
)
from benchmarks.faults.tries import TRACEBACKS, Answer, Try, answered, report
from etl.synthetic.catalogue import write_catalogue
from mdsrec.command import positive_int
from mdsrec.packages import child_environment

NAME = "kills"
SECTIONS: dict[str, dict[str, Any]] = {
    "sequences": {"k_core": 3},
    "graph": {"max_neighbors": 12},
    "model": {"memory": False, "dim": 8, "inner_dim": 8, "num_centers": 4, "num_neighbors": 5},
    "train": {"batch_size": 16, "max_epochs": 3, "checkpoint_minutes": 0.01},
    "eval": {"user_batch": 2},
    "tune": {
        "searcher": "grid",
        "scheduler": "none",
        "space": {"optim": {"lr": {"grid": [1e-3, 3e-3]}}},
    },
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATIENCE = 900.0  # seconds in which a stage ends
CLEANUP_SECONDS = 60.0  # in which a stage ends after a signal


class Stage(NamedTuple):
    """A stage: its module, the words of a call that continues it, and its results in a root."""

    module: str
    again: tuple[str, ...]
    results: Callable[[Path], Results]


class Disturbance(NamedTuple):
    """A signal to all processes of a stage, or to its driver only."""

    signum: int
    everyone: bool
    moment: float  # seconds after its start


STAGES = {
    "etl": Stage("etl", (), table_results),
    "train": Stage("training", (), partial(run_results, name=NAME)),
    "evaluate": Stage("evaluation", (), partial(evaluation_results, name=NAME)),
    "tune": Stage("tuning", ("--resume",), partial(sweep_results, name=NAME)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder for data and answers")
    parser.add_argument("--tries", type=positive_int, default=40, help="kills and signals (40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=[*STAGES], help="stages (default: all)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Disturb each stage in turn, and report."""
    folder = arguments.folder.resolve()
    write_catalogue(folder / "raw", num_users=80, num_items=50, seed=1)
    draw, tries = random.Random(arguments.seed), []
    turns = [arguments.stages[n % len(arguments.stages)] for n in range(arguments.tries)]
    before, whole = folder / "before", folder / "whole"  # a root before a stage, and after it
    shutil.rmtree(before, ignore_errors=True)
    before.mkdir()
    for name, stage in STAGES.items():
        _copy(before, whole)
        started = time.monotonic()
        code, output = _run(stage.module, folder, whole)
        assert code == 0, output
        seconds, expected = time.monotonic() - started, stage.results(whole)
        for number in range(turns.count(name)):
            _copy(before, folder / "root")
            disturbance = Disturbance(
                SIGNALS[number % len(SIGNALS)], draw.random() < 0.5, draw.uniform(0, seconds)
            )
            tries.append(disturb(name, folder, disturbance, expected))
            print(f"{len(tries)}/{arguments.tries} {tries[-1]}", file=sys.stderr)
        _copy(whole, before)
    report(folder, NAME, tries)


def disturb(name: str, folder: Path, disturbance: Disturbance, expected: Results) -> Try:
    """Disturb a stage, then run it again to its end."""
    signum, everyone, moment = disturbance
    stage, root = STAGES[name], folder / "root"
    target = "all processes" if everyone else "the driver"
    fault = f"{signal.Signals(signum).name} to {target} after {moment:.1f} s"
    job = _start(stage.module, folder, root)
    children: list[psutil.Process] = []
    try:
        job.wait(moment)
    except subprocess.TimeoutExpired:
        children = psutil.Process(job.pid).children(recursive=True)
        _send(job, signum, everyone)
    said = _end(job, children)
    if any(sign in said for sign in TRACEBACKS) and signum != signal.SIGKILL:
        return Try(name, fault, Answer.TRACEBACK, said.strip().splitlines()[-1])
    code, output = _run(stage.module, folder, root, *stage.again)
    right = code == 0 and stage.results(root) == expected
    if code:
        return Try(name, fault, Answer.SILENT, f"not completed: {output.strip().splitlines()[-1]}")
    return answered(name, fault, code, output, right)


def _send(job: subprocess.Popen[str], signum: int, everyone: bool) -> None:
    """Send the signal. A terminal sends SIGINT to all processes of a command."""
    if everyone or signum == signal.SIGINT:
        os.killpg(job.pid, signum)
    else:
        job.send_signal(signum)


def _end(job: subprocess.Popen[str], children: list[psutil.Process]) -> str:
    """Wait for the end of a stage, and end the processes that it left behind -> its output."""
    try:
        output, _ = job.communicate(timeout=CLEANUP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        output, _ = job.communicate()
    for child in children:
        if child.is_running():
            child.kill()
    return output


def _run(module: str, folder: Path, root: Path, *words: str) -> tuple[int, str]:
    job = _start(module, folder, root, *words)
    output, _ = job.communicate(timeout=PATIENCE)
    return job.returncode, output


def _start(module: str, folder: Path, root: Path, *words: str) -> subprocess.Popen[str]:
    config = write_experiment(folder / f"{NAME}.toml", root, folder / "raw", SECTIONS)
    return subprocess.Popen(
        [sys.executable, "-m", module, config, *words],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
