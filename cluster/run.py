"""Every stage as a process of its own, with the same configuration."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from cluster.stages import STAGES, WORDS
from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.table_names import run_uri


def run_stages(
    config: str, overrides: Sequence[str], fresh: bool, stages: Sequence[str] = STAGES
) -> int:
    """Run `stages` in turn, up to the first that fails -> its exit code, else 0.

    A mistake in the configuration is an InputError before any stage starts.
    """
    experiment = load_experiment(config, overrides)
    seconds: dict[str, float] = {}
    for stage in stages:
        flags = ["--fresh"] if fresh and stage == "training" else []
        command = [sys.executable, "-m", *WORDS[stage], *flags, config, *overrides]
        print(f"\n--- {stage}", flush=True)
        start = time.monotonic()
        code = run_process(command)
        seconds[stage] = time.monotonic() - start
        if code:
            code = code if code > 0 else 128 - code  # as a shell says that a signal ended it
            print(
                f"\n{_listed(seconds)}\ncluster: {stage} failed with exit code {code}", flush=True
            )
            return code
        if stage == "training" and not _is_trained(experiment):
            print(f"\n{_listed(seconds)}\ncluster: the same command goes on", flush=True)
            return 0
    print(f"\n{_listed(seconds)}")
    if "evaluation" in stages:
        print(f"report: {run_uri(experiment)}/report.html")
    return 0


def _is_trained(experiment: Experiment) -> bool:
    """Whether training ended by itself, and not because it was asked to stop."""
    return bool(files.read_json(f"{run_uri(experiment)}/history.json").get("finished"))


def run_process(command: Sequence[str]) -> int:
    """Run a stage to its end; SIGTERM (a spot instance's notice) reaches it too."""
    with subprocess.Popen(command) as stage:
        before = signal.signal(signal.SIGTERM, lambda *_: stage.terminate())
        try:
            return stage.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


def _listed(seconds: dict[str, float]) -> str:
    """etl 12 s, training 95 s"""
    return ", ".join(f"{stage} {spent:.0f} s" for stage, spent in seconds.items())
