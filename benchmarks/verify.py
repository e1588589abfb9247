"""Measure a quick part of docs/results.toml again and compare: `make verify`

It trains and ranks the demo from scratch, and fails if a metric differs from the file. Metrics of
counts, which need no training, must be equal. Those of a trained model may differ by `TOLERANCE`:
the order of float additions depends on the processor, and training amplifies it.
"""

import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.metrics.run_metrics import ITEMKNN, POPULARITY, RunMetrics
from mdsrec.command import run_command, stage_parser
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from mdsrec.text import text_table
from tuning.stages import RunSpec, train_and_rank

PROG = "benchmarks.verify"
RESULTS = Path(__file__).parent.parent / "docs" / "results.toml"
CONFIG = "configs/demo.toml"
ROOT = Path("artifacts/verify")
BASELINES = {"popularity": POPULARITY, "ItemKNN": ITEMKNN}  # channels of the demo, by their names
RUNS = {
    "demo": [],
    "demo-id": ["model.modalities=[]"],
}
TOLERANCE = 0.01
HALF_DIGIT = 0.5e-4  # the file has four digits

Metrics = Mapping[str, Mapping[str, float]]  # by run, then by name


def main(argv: Sequence[str] | None = None) -> None:
    stage_parser(PROG, __doc__ or "").parse_args(argv)
    expected = expected_metrics(tomllib.loads(RESULTS.read_text())["demo"])
    measured = _measure()
    print(text_table(["run", "metric", "file", "measured"], list(_rows(expected, measured))))
    if wrong := differences(expected, measured):
        raise InputError(f"{RESULTS.name} [demo] differs: {'; '.join(wrong)}")
    print(f"\nequal to {RESULTS.name} [demo], trained models within {TOLERANCE}")


def expected_metrics(result: Mapping[str, Any]) -> Metrics:
    """Return the metrics that a section of the file lists, by run."""
    names = result["columns"][1:]
    return {
        run: dict(zip(names, map(float, values), strict=True)) for run, *values in result["rows"]
    }


def differences(expected: Metrics, measured: Metrics) -> list[str]:
    """Return a phrase for each metric that differs by more than is allowed."""
    allowed = {run: HALF_DIGIT if run in BASELINES else TOLERANCE for run in expected}
    return [
        f"{name} of {run} is {measured[run][name]:.4f} instead of {value:.4f}"
        for run, values in expected.items()
        for name, value in values.items()
        if not abs(measured[run][name] - value) <= allowed[run]
    ]


def _measure() -> Metrics:
    """Train and rank the demo from scratch -> metrics of the test events by run."""
    shutil.rmtree(ROOT, ignore_errors=True)
    runs = [
        RunSpec(name, CONFIG, [f"root={ROOT}", f"name={name}", *overrides])
        for name, overrides in RUNS.items()
    ]
    if failed := train_and_rank(runs, jobs=1).failed:
        raise InputError("; ".join(failed))
    of_runs = {
        name: RunMetrics.read(RunPaths.of(run.experiment).metrics).split["test"]
        for name, run in zip(RUNS, runs, strict=True)
    }
    whole = {name: channels["all"] for name, channels in of_runs.items()}
    counted = {name: of_runs["demo"][channel] for name, channel in BASELINES.items()}
    return whole | counted


def _rows(expected: Metrics, measured: Metrics) -> Iterator[list[str]]:
    for run, values in expected.items():
        for name, value in values.items():
            yield [run, name, f"{value:.4f}", f"{measured[run][name]:.4f}"]


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
