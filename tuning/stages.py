"""Runs made by the command-line stages, as a user would make them. Finished stages are skipped."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from mdsrec.command.failures import OWN_MISTAKE
from mdsrec.command.names import process_of
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError, cause_of
from mdsrec.machine import THREADS_KEY, cores_to_use
from mdsrec.packages import child_environment
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

    def run_stage(
        self, name: str, *flags: str, folder: str | None = None, num_sharing: int = 1
    ) -> None:
        """Run the stage `name` on the configuration, in `folder` or else the current folder.

        `num_sharing` such stages share the cores of this machine.
        Raises InputError with its last line if it fails. What a mistake of this program has printed
        is printed here too, because it is to be reported.
        """
        command = [*process_of(name), self.config, *self.overrides, *flags]
        code, errors = _run(command, folder, num_sharing)
        if code == OWN_MISTAKE:
            print(errors, end="", file=sys.stderr)
        if code:
            raise InputError(cause_of(errors))

    def history(self) -> dict[str, Any]:
        """Return history.json, or {} before the first epoch has ended."""
        return self.paths.read_history()


_running: set[subprocess.Popen[str]] = set()
_received: list[int] = []  # signals


def _run(command: Sequence[str], folder: str | None, num_sharing: int) -> tuple[int, str]:
    """Run a command that gets the signals of `signals_to_stages` -> exit code, standard error."""
    threads = {THREADS_KEY: str(max(1, cores_to_use() // num_sharing))} if num_sharing > 1 else {}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=child_environment() | threads,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as stage:
        _running.add(stage)
        for signum in _received:  # before it was in the set
            stage.send_signal(signum)
        _, errors = stage.communicate()
        _running.remove(stage)
    return stage.returncode, errors


@contextmanager
def signals_to_stages() -> Iterator[None]:
    """Pass SIGTERM and SIGINT on to the running stages; when they have ended, end as a shell does.

    A training saves and ends, and the same command continues. Call this in the main thread.
    """

    def pass_on(signum: int, _frame: object) -> None:
        _received.append(signum)
        for stage in list(_running):
            stage.send_signal(signum)

    before = {signum: signal.signal(signum, pass_on) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if _received:
            raise SystemExit(128 + _received[0])


class BatchResult(NamedTuple):
    """The result of `train_and_rank`."""

    finished: list[RunSpec]
    failed: list[str]  # a cause per failed run
    left: list[RunSpec]  # unfinished when the time was over


def train_and_rank(runs: Sequence[RunSpec], jobs: int, minutes: float | None = None) -> BatchResult:
    """Train and rank every run, `jobs` in parallel, until the minutes are over.

    The tables are built first, once per label. If a run fails, the others continue.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    result = BatchResult([], [], [])
    with signals_to_stages(), ThreadPoolExecutor(jobs) as pool:
        for any_seed in {run.label: run for run in runs}.values():
            any_seed.run_stage("etl")
        num_sharing = min(jobs, len(runs))
        outcomes = pool.map(lambda run: _train_and_rank_one(run, deadline, num_sharing), runs)
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, str):
                result.failed.append(outcome)
            else:
                (result.finished if outcome else result.left).append(run)
    return result


def _train_and_rank_one(run: RunSpec, deadline: float | None, num_sharing: int) -> bool | str:
    """Return True if the run was finished before the deadline, or the cause if it failed.

    `num_sharing` runs share the cores.
    """
    minutes = None if deadline is None else (deadline - time.monotonic()) / 60
    if _received or (minutes is not None and minutes <= 0):
        return False
    try:
        flags = [] if minutes is None else [f"--minutes={minutes}"]
        run.run_stage("training", *flags, num_sharing=num_sharing)
        if not run.history().get("finished"):
            return False
        run.run_stage("evaluation")
    except InputError as error:
        if _received:
            return False
        print(f"{run.experiment.name} failed: {error}", file=sys.stderr, flush=True)
        return str(error)
    print(f"{run.experiment.name} is trained and ranked", file=sys.stderr, flush=True)
    return True
