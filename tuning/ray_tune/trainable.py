"""The process of a trial: it waits for its tables and trains its seeds one after the other."""

import math
from traceback import format_exception_only
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import cause_of
from mdsrec.jobs.promises import promised
from mdsrec.run_paths import RunPaths
from tuning.trials import METRIC, REPORTED


def run_trial(config: dict[str, Any]) -> None:
    """Report each epoch of the first seed from epoch `num_reported` on, then the result.

    The result is either the outcomes of all seeds or the cause of a failure. A failure is reported,
    not raised, because Tune restarts a trial whose process raised. `experiments` are the resolved
    configurations of the seeds; `builder` is the TableBuilder.
    """
    try:
        tune.report(_train_all_seeds(config))
    except Exception as error:
        text = "".join(format_exception_only(error))
        tune.report({METRIC: math.nan, "cause": cause_of(text)})


def _train_all_seeds(config: dict[str, Any]) -> dict[str, Any]:
    experiments = [experiment_from(each, source="trial") for each in config["experiments"]]
    first = experiments[0]
    built = ray.get(config["builder"].build.remote(config["file"], config["overrides"], first))
    with promised(built.fingerprints):
        result = _train_on_tables(experiments, config["num_reported"])
    return {**result, "built": built.names}


def _train_on_tables(experiments: list[Experiment], num_reported: int) -> dict[str, Any]:
    from training.distributed.ray_session import pin_ray_address
    from training.run import fit

    first = experiments[0]
    pin_ray_address()
    recorded = RunPaths.of(first).read_history().get("epochs", [])
    for epoch in recorded[num_reported:]:
        tune.report(epoch)
    histories = []
    for experiment in experiments:
        callbacks = [TuneReportCallback()] if experiment is first else []
        # A trial has only one process, so a driver that still holds the lease is a lost one.
        histories.append(fit(experiment, callbacks=callbacks, takes_over=True).history)
    outcomes = [outcome(e, h) for e, h in zip(experiments, histories, strict=True)]
    epochs = histories[0]["epochs"]
    return {**epochs[-1], "history": epochs, "outcomes": outcomes}


def outcome(experiment: Experiment, history: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of the best epoch and the cost of a finished run."""
    epochs = history["epochs"]
    best = epochs[history["best_epoch"]]
    return {
        "run": experiment.name,
        "seed": experiment.seed,
        **{name: best[name] for name in REPORTED},
        "best_epoch": history["best_epoch"],
        "epochs": len(epochs),
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "parameters": history["num_parameters"],
    }
