"""A trial's process: it has its tables stand, and trains its seeds one after the other."""

import math
from traceback import format_exception_only
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import last_words
from mdsrec.table_names import run_uri
from tuning.trials import METRIC, SHOWN


def run_trial(config: dict[str, Any]) -> None:
    """Report each epoch of the first seed from epoch `told` on, then what came of all seeds, or
    what made it fail: raised, Tune would take that for a process that was lost, and start again.

    `experiments` are the seeds', resolved; `builder` answers what their tables are built by.
    """
    try:
        tune.report(_trained(config))
    except Exception as error:
        said = "".join(format_exception_only(error))
        tune.report({METRIC: math.nan, "cause": last_words(said)})


def _trained(config: dict[str, Any]) -> dict[str, Any]:
    experiments = [experiment_from(each, source="trial") for each in config["experiments"]]
    first = experiments[0]
    built = ray.get(config["builder"].build.remote(config["file"], config["overrides"], first))
    from training.distributed.ray_session import name_this_ray
    from training.run import fit

    name_this_ray()
    for epoch in files.read_json(f"{run_uri(first)}/history.json").get("epochs", [])[
        config["told"] :
    ]:
        tune.report(epoch)
    histories = []
    for experiment in experiments:
        callbacks = [TuneReportCallback()] if experiment is first else []
        # The sweep has one process a trial: who trains it yet is one that was given up.
        histories.append(fit(experiment, callbacks=callbacks, takes_over=True).history)
    outcomes = [outcome(e, h) for e, h in zip(experiments, histories, strict=True)]
    epochs = histories[0]["epochs"]
    return {**epochs[-1], "history": epochs, "outcomes": outcomes, "built": built}


def outcome(experiment: Experiment, history: dict[str, Any]) -> dict[str, Any]:
    """What a finished run came to."""
    epochs = history["epochs"]
    best = epochs[history["best_epoch"]]
    return {
        "run": experiment.name,
        "seed": experiment.seed,
        **{name: best[name] for name in SHOWN},
        "best_epoch": history["best_epoch"],
        "epochs": len(epochs),
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "parameters": history["num_parameters"],
    }
