"""Files and screen of a sweep's results: best.toml, trials.parquet, report.html."""

import io
import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from evaluation.metrics.run_metrics import RunMetrics
from evaluation.report.head import run_facts
from mdsrec import files
from mdsrec.command.names import spelled
from mdsrec.config.loading import load_experiment
from mdsrec.digests.last_line import with_last_line
from mdsrec.errors import InputError
from mdsrec.text import text_table
from tuning.live import HEADER, NUM_TEXT_COLUMNS, table_rows
from tuning.report.page import sweep_page
from tuning.space import Values
from tuning.stages import RunSpec, signals_to_stages
from tuning.sweep import Sweep
from tuning.trials import METRIC, REPORTED, Trial, commonest_cause, format_values

NUM_SHOWN = 10  # trials on the screen
REMEDY = "correct that, then try them again with --resume; other values need another name"


def write_results(sweep: Sweep) -> str:
    """Write the results of a sweep and return them as one screen of text.

    The report is written when all trials have ended. Only the winner is ranked on the test split.
    If all trials have ended and none has finished, the text is printed and InputError is raised.
    """
    trials = sweep.store.in_order()
    files.write_bytes(f"{sweep.uri}/trials.parquet", trials_parquet(trials))
    winner, failures = sweep.store.winner(), failures_line(sweep)
    lines = [text_table(HEADER, table_rows(trials, NUM_SHOWN), NUM_TEXT_COLUMNS), ""]
    left = sweep.plan.num_trials - len(sweep.store.ended())
    if not winner and not left:
        print("\n".join(lines))
        raise InputError(f"{failures}: {REMEDY}")
    if failures:
        lines += [f"{failures}; --resume tries them again", ""]
    best = f"{sweep.uri}/best.toml"
    if winner:
        files.write_bytes(best, winner_toml(sweep, winner).encode())
    if left:
        lines += [f"{left} of {sweep.plan.num_trials} trials are left: continue with --resume"]
    elif winner:
        run = evaluate_winner(sweep, winner)
        metrics = RunMetrics.read(run.paths.metrics)
        facts = run_facts(run.experiment.resolved(), run.history())
        files.write_bytes(f"{sweep.uri}/report.html", sweep_page(sweep, metrics, facts).encode())
        lines += [*_winner_lines(sweep, winner, metrics), ""]
        lines += [f"report  {sweep.uri}/report.html", f"trials  {sweep.uri}/trials.parquet"]
        study = " ".join(spelled("tuning study"))
        lines += [f"next    {study} {best} --models mdsrec --seeds 3"]
    return "\n".join(lines)


def failures_line(sweep: Sweep) -> str:
    """Return how many trials failed and the commonest cause; empty text if none failed."""
    causes = [trial.cause for trial in sweep.store.failed()]
    count = f"{len(causes)} of {sweep.plan.num_trials} trials failed"
    return f"{count}: {commonest_cause(causes)}" if causes else ""


def trials_parquet(trials: Sequence[Trial]) -> bytes:
    """Return a Parquet file with one row per trial: number, state, values, metrics, cost, cause."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            **dict(flat_values(trial.values)),
            METRIC: none_if_nan(trial.score),
            "spread": none_if_nan(trial.spread),
            "epochs": trial.epochs,
            "seconds": trial.seconds,
            "runs": [outcome["run"] for outcome in trial.outcomes],
            "built": trial.built,
            "cause": trial.cause,
            "retries": trial.retries,
        }
        for trial in trials
    ]
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content, compression="zstd")
    return content.getvalue()


def flat_values(values: Values) -> list[tuple[str, Any]]:
    """Return columns and their values. A simplex has a column per name; a list becomes JSON."""
    columns: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            columns += [(f"{key}.{name}", share) for name, share in value.items()]
        else:
            columns.append((key, json.dumps(value) if isinstance(value, list | tuple) else value))
    return columns


def none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def winner_toml(sweep: Sweep, winner: Trial) -> str:
    """Return the winner as the configuration of an experiment `NAME-best`.

    It holds the keys that the sweep's file and overrides set, and the winner's values.
    """
    overrides = sweep.overrides_for(winner.values, name=f"{sweep.experiment.name}-best")
    experiment = load_experiment(sweep.config, overrides)
    content = experiment.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    settings = experiment.spark.settings  # excluded from dumps, because it may hold credentials
    content.pop("tune", None)
    head = f"# Trial {winner.number} of {sweep.plan.num_trials}: {format_values(winner.values)}\n"
    head += f"# Validation {METRIC} {winner.score:.6f}"
    if settings:
        head += "\n# [spark.settings] is not repeated here"
    return with_last_line(f"{head}\n\n{tomli_w.dumps(content)}")


def evaluate_winner(sweep: Sweep, winner: Trial) -> RunSpec:
    """Rank the winner's first seed on the test split and return its run."""
    overrides = sweep.overrides_for(winner.values, **sweep.run_keys(winner, 0))
    run = RunSpec("winner", sweep.config, overrides)
    with signals_to_stages():
        run.run_stage("evaluation")
    return run


def _winner_lines(sweep: Sweep, winner: Trial, metrics: RunMetrics) -> list[str]:
    test = metrics.split["test"]["all"]
    seeds = f", {len(winner.outcomes)} seeds" if len(winner.outcomes) > 1 else ""
    return [
        f"best        trial {winner.number}: {format_values(winner.values)}",
        f"validation  {METRIC} {winner.score:.4f}{seeds}",
        "test        " + "  ".join(f"{name} {test[name]:.4f}" for name in reversed(REPORTED)),
        f"as a file   {sweep.uri}/best.toml",
    ]
