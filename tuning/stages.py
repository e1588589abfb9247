"""Runs made by their stages, as a user would make them: what stands is not made again."""

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
from mdsrec.table_names import run_uri


class Run(NamedTuple):
    """One training of a study, and what the study calls its kind."""

    kind: str
    config: str
    overrides: list[str]

    @property
    def experiment(self) -> Experiment:
        return load_experiment(self.config, self.overrides)

    @property
    def uri(self) -> str:
        return run_uri(self.experiment)

    def stage(self, name: str, *flags: str, folder: str | None = None) -> None:
        """Run `python -m NAME` on it from `folder`, or from here; InputError with its last line if
        it fails.
        """
        command = [sys.executable, "-m", name, self.config, *self.overrides, *flags]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"{' '.join(command)}: {(done.stderr or '?').splitlines()[-1]}")

    def history(self) -> dict[str, Any]:
        """What training said of it; empty before its first epoch."""
        return files.read_json(f"{self.uri}/history.json")


class Outcome(NamedTuple):
    made: list[Run]  # trained to the end and ranked
    failed: list[str]  # why, of each run that failed
    left: list[Run]  # for which there was no time


def make(runs: Sequence[Run], jobs: int, minutes: float | None = None) -> Outcome:
    """Train and rank every run, `jobs` at a time, until the minutes are over; a run that fails
    leaves the others to go on. The data set's tables are made first, once for each kind.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for any_seed in {run.kind: run for run in runs}.values():
        any_seed.stage("etl")
    outcome = Outcome([], [], [])
    with ThreadPoolExecutor(jobs) as pool:
        for run, how in zip(runs, pool.map(lambda run: _made(run, end), runs), strict=True):
            if isinstance(how, str):
                outcome.failed.append(how)
            else:
                (outcome.made if how else outcome.left).append(run)
    return outcome


def _made(run: Run, end: float | None) -> bool | str:
    """Whether the run was made before `end`, or why it failed."""
    left = None if end is None else (end - time.monotonic()) / 60
    if left is not None and left <= 0:
        return False
    try:
        run.stage("training", *([] if left is None else [f"--minutes={left}"]))
        if not run.history().get("finished"):
            return False
        run.stage("evaluation")
    except InputError as error:
        return str(error)
    print(f"{run.experiment.name} is trained and ranked", file=sys.stderr, flush=True)
    return True
