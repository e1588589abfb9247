"""Runs made by the command-line stages, as a user would make them. Finished stages are skipped."""

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths


class RunSpec(NamedTuple):
    """A configuration file with the overrides of one run. Runs with the same label share tables."""

    label: str
    config: str
    overrides: list[str]

    @property
    def experiment(self) -> Experiment:
        return load_experiment(self.config, self.overrides)

    @property
    def paths(self) -> RunPaths:
        return RunPaths.of(self.experiment)

    def run_stage(self, name: str, *flags: str, folder: str | None = None) -> None:
        """Run `python -m NAME` on the configuration, in `folder` or else the current folder.

        Raises InputError with the command's last line if it fails.
        """
        command = [sys.executable, "-m", name, self.config, *self.overrides, *flags]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"{' '.join(command)}: {(done.stderr or '?').splitlines()[-1]}")

    def history(self) -> dict[str, Any]:
        """Return history.json, or {} before the first epoch has ended."""
        return files.read_json(self.paths.history)


class BatchResult(NamedTuple):
    """The result of `train_and_rank`."""

    finished: list[RunSpec]
    failed: list[str]  # an error per failed run
    left: list[RunSpec]  # unfinished when the time was over


def train_and_rank(runs: Sequence[RunSpec], jobs: int, minutes: float | None = None) -> BatchResult:
    """Train and rank every run, `jobs` in parallel, until the minutes are over.

    The tables are built first, once per label. If a run fails, the others continue.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    for any_seed in {run.label: run for run in runs}.values():
        any_seed.run_stage("etl")
    result = BatchResult([], [], [])
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = pool.map(lambda run: _train_and_rank_one(run, deadline), runs)
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, str):
                result.failed.append(outcome)
            else:
                (result.finished if outcome else result.left).append(run)
    return result


def _train_and_rank_one(run: RunSpec, deadline: float | None) -> bool | str:
    """Return True if the run was finished before the deadline, or the error if it failed."""
    minutes = None if deadline is None else (deadline - time.monotonic()) / 60
    if minutes is not None and minutes <= 0:
        return False
    try:
        run.run_stage("training", *([] if minutes is None else [f"--minutes={minutes}"]))
        if not run.history().get("finished"):
            return False
        run.run_stage("evaluation")
    except InputError as error:
        return str(error)
    print(f"{run.experiment.name} is trained and ranked", file=sys.stderr, flush=True)
    return True
