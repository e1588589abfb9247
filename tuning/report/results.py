"""What a sweep leaves: best.toml, trials.parquet, a screen."""

import io
import json
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from evaluation.metrics.run_metrics import RunMetrics
from mdsrec import files
from mdsrec.config.loading import load_experiment
from mdsrec.run_paths import RunPaths
from tuning.live import in_words, table
from tuning.report.page import sweep_page
from tuning.space import Values
from tuning.stages import Run
from tuning.sweep import Sweep
from tuning.trials import METRIC, SHOWN, Trial

TOP = 10  # trials on the screen


def conclude(sweep: Sweep) -> str:
    """Write what the sweep came to -> one screen. The winner alone is ranked on the test split."""
    trials = [sweep.records.trials[n] for n in sorted(sweep.records.trials)]
    files.write_bytes(f"{sweep.uri}/trials.parquet", parquet_of(trials))
    winner = sweep.records.winner()
    lines = table(trials, TOP)
    left = sweep.plan.num_trials - len(sweep.records.ended())
    best = f"{sweep.uri}/best.toml"
    if winner:
        files.write_bytes(best, toml_of(sweep, winner).encode())
    if left:
        lines += ["", f"{left} of {sweep.plan.num_trials} trials are left: go on with --resume"]
    elif winner:
        metrics = evaluated(sweep, winner)
        files.write_bytes(f"{sweep.uri}/report.html", sweep_page(sweep, metrics).encode())
        lines += ["", *_of_winner(sweep, winner, metrics), ""]
        lines += [f"report  {sweep.uri}/report.html", f"trials  {sweep.uri}/trials.parquet"]
        lines += [f"next    python -m tuning study {best} --models mdsrec --seeds 3"]
    else:
        lines += ["", "no trial finished: the causes stand in trials.parquet"]
    return "\n".join(lines)


def parquet_of(trials: list[Trial]) -> bytes:
    """A row a trial: number, state, cause, its values by key, metrics, cost."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            **dict(flat(trial.values)),
            METRIC: none_if_nan(trial.best),
            "spread": none_if_nan(trial.spread),
            "epochs": trial.epochs,
            "seconds": trial.seconds,
            "runs": [outcome["run"] for outcome in trial.outcomes],
            "built": trial.built,
            "cause": trial.cause,
        }
        for trial in trials
    ]
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content, compression="zstd")
    return content.getvalue()


def flat(values: Values) -> list[tuple[str, Any]]:
    """Columns: a simplex has one a name; a list is its JSON."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += [(f"{key}.{name}", share) for name, share in value.items()]
        else:
            found.append((key, json.dumps(value) if isinstance(value, list | tuple) else value))
    return found


def none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def toml_of(sweep: Sweep, winner: Trial) -> str:
    """The winner as an experiment of its own, `NAME-best`; it holds what the files and overrides of
    the sweep set, and the winner's values.
    """
    words = sweep.words(winner.values, name=f"{sweep.experiment.name}-best")
    experiment = load_experiment(sweep.config, words)
    content = experiment.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    settings = experiment.spark.settings  # left out of dumps, as it may hold credentials
    content.pop("tune", None)
    said = f"# Trial {winner.number} of {sweep.plan.num_trials}: {in_words(winner.values)}\n"
    said += f"# Validation {METRIC} {winner.best:.6f}"
    if settings:
        said += "\n# [spark.settings] is not repeated here"
    return f"{said}\n\n{tomli_w.dumps(content)}"


def evaluated(sweep: Sweep, winner: Trial) -> RunMetrics:
    """The winner's metrics.json, of its first seed."""
    words = sweep.words(winner.values, **sweep.identity(winner, 0))
    run = Run("winner", sweep.config, words)
    run.stage("evaluation")
    return RunMetrics.read(RunPaths(run.uri).metrics)


def _of_winner(sweep: Sweep, winner: Trial, metrics: RunMetrics) -> list[str]:
    test = metrics.split["test"]["all"]
    seeds = f", {len(winner.outcomes)} seeds" if len(winner.outcomes) > 1 else ""
    return [
        f"best        trial {winner.number}: {in_words(winner.values)}",
        f"validation  {METRIC} {winner.best:.4f}{seeds}",
        "test        " + "  ".join(f"{name} {test[name]:.4f}" for name in reversed(SHOWN)),
        f"as a file   {sweep.uri}/best.toml",
    ]
