"""A sweep over the space of an experiment's section [tune], on Ray Tune."""

import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any

import ray
from ray import tune

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment, to_overrides
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.distributed.ray_session import ray_session
from training.lifecycle.lease import run_lease
from training.lifecycle.stopping import stop_on_request
from training.tracking import Tracking, adopt
from tuning.builder import start_table_builder
from tuning.capacity import DRIVER_RESOURCES, cluster_machines, max_parallel_trials, trial_size
from tuning.live import SweepDisplay
from tuning.plan import Plan
from tuning.ray_tune.callbacks import StopFileStopper, TrialRecorder
from tuning.ray_tune.scheduler import ResumableASHA
from tuning.ray_tune.searcher import PlanSearcher
from tuning.ray_tune.trainable import run_trial
from tuning.space import Values, finite_values
from tuning.trials import METRIC, Trial, TrialStore, sweep_uri

log = logging.getLogger("tuning")

CHANGEABLE = ("hours", "concurrent")  # keys of [tune] that may differ when a sweep is resumed


class Sweep:
    """An experiment, its search space and its trials."""

    def __init__(self, config: str, overrides: Sequence[str]) -> None:
        self.config, self.overrides = config, list(overrides)
        self.experiment = load_experiment(config, overrides)
        self.tune = self.experiment.tune
        if not self.tune.space:
            raise InputError(f"{config}: there is no section [tune.space], so nothing to search")
        self.uri = sweep_uri(self.experiment)
        self.plan = Plan(self.tune, self.experiment.seed)
        self.store = TrialStore(self.uri)

    def overrides_for(self, values: Values, **more: Any) -> list[str]:
        """Return the overrides that give the experiment these values, with `more` laid over."""
        return [*self.overrides, *overrides_of(values, **more)]

    def experiments_of(self, trial: Trial) -> list[Experiment]:
        """Return the experiment of each seed of a trial."""
        return [
            load_experiment(
                self.config, self.overrides_for(trial.values, **self.run_keys(trial, seed))
            )
            for seed in range(self.tune.seeds)
        ]

    def run_keys(self, trial: Trial, seed: int) -> dict[str, Any]:
        """Return the name and seed of a trial's run."""
        name = f"{self.experiment.name}-{trial.number:05d}"
        suffix = f"-{seed}" if self.tune.seeds > 1 else ""
        return {"name": f"{name}{suffix}", "seed": self.experiment.seed + seed}

    def check_values(self) -> None:
        """Raise InputError for the first value of the space that the configuration refuses.

        Of an interval the bounds are checked, of a simplex without steps the equal shares.
        """
        for key, domain in self.tune.space.items():
            values = finite_values(domain) if domain.is_finite else domain.uniform
            for value in values or domain.loguniform or ():
                load_experiment(self.config, self.overrides_for({key: value}))
            if domain.simplex and not domain.steps:
                even = dict.fromkeys(domain.simplex, 1 / len(domain.simplex))
                load_experiment(self.config, self.overrides_for({key: even}))

    def claim_name(self, resume: bool) -> None:
        """Write sweep.json, which binds the sweep's name to its configuration and space.

        Raises InputError if the name belongs to another sweep, or to an unfinished one that is not
        to be resumed.
        """
        uri = f"{self.uri}/sweep.json"
        settings = self.tune.model_dump(mode="json", exclude=set(CHANGEABLE))
        experiment, train = self.experiment.identity(), self.experiment.train
        # A run may go on with other limits. A sweep may not: they decide which trials ASHA stops.
        experiment["train"] |= {"max_epochs": train.max_epochs, "patience": train.patience}
        identity = {"experiment": experiment, "tune": settings}
        identity = json.loads(json.dumps(identity))
        found = files.read_json(uri)
        if found and found != identity:
            raise InputError(
                f"sweep {self.experiment.name} has another configuration or space: choose another "
                f"name, or delete {self.uri}"
            )
        if found and not resume and not self.is_done:
            raise InputError(
                f"sweep {self.experiment.name} has {len(self.store.ended())} of "
                f"{self.plan.num_trials} trials: continue it with --resume, or choose another name"
            )
        files.write_json(uri, identity)

    @property
    def is_done(self) -> bool:
        return len(self.store.ended()) == self.plan.num_trials


def run_sweep(sweep: Sweep, resume: bool) -> None:
    """Run the remaining trials of the sweep, until `tune.hours` are over.

    With `resume`, the trials that failed in earlier calls are tried again, once each. Raises
    InputError, before any table is built, if the cluster has no room for one trial.
    """
    sweep.check_values()
    files.check_root(sweep.experiment.root)
    sweep.claim_name(resume)
    if sweep.is_done and not (resume and sweep.store.failed()):
        return
    with run_lease(sweep.uri), ray_session(False, [SIGTERM]):
        size = trial_size(sweep.experiment)
        limit = sweep.tune.concurrent or sweep.plan.num_trials
        parallel = max_parallel_trials(size, cluster_machines(), limit)
        log.info(
            f"{sweep.experiment.name}: {sweep.plan.num_trials} trials of {size}, "
            f"{parallel} in parallel"
        )
        builder = start_table_builder(sweep.overrides)
        build_listed_tables(sweep, builder)
        track_sweep(sweep)
        _run_trials(sweep, builder, parallel)
        track_sweep(sweep)


def track_sweep(sweep: Sweep) -> None:
    """Create the run of the sweep in the tracker, if it has one, or send the score so far to it."""
    if client := sweep.experiment.train.tracking:
        params = {f"tune.{key}": value for key, value in sweep.tune.model_dump(mode="json").items()}
        tracking = Tracking(client, sweep.uri, sweep.experiment.name, params)
        if winner := sweep.store.winner():
            tracking.summarize({f"best/{METRIC}": winner.score, "best/trial": winner.number})
        tracking.close()


def overrides_of(values: Values, **more: Any) -> list[str]:
    """Return the overrides of the values of a trial, with `more` laid over."""
    return [*to_overrides(values), *to_overrides(more)]


def build_listed_tables(sweep: Sweep, builder: Any) -> None:
    """Build the tables of every mu and k that the space lists."""
    listed = {
        key: finite_values(domain) for key, domain in sweep.tune.space.items() if domain.is_finite
    }
    mus = sorted(
        {v for key, values in listed.items() if key.startswith("model.mu.") for v in values}
    )
    ks = sorted(set(listed.get("model.num_centers", ())))
    graph = sweep.experiment.graph
    more = [
        f"graph.mu={sorted({*graph.mu, *mus})}",
        f"graph.num_centers={sorted({*graph.num_centers, *ks})}",
    ]
    log.info("building the tables of the trials")
    experiment = load_experiment(sweep.config, [*sweep.overrides, *more])
    built = ray.get(builder.build.remote(sweep.config, more, experiment))
    log.info(f"built {', '.join(built)}" if built else "all tables were already built")


def _run_trials(sweep: Sweep, builder: Any, parallel: int) -> None:
    scheduler = None
    if sweep.tune.scheduler == "asha":
        epochs = sweep.experiment.train.max_epochs
        scheduler = ResumableASHA(sweep.tune, epochs, sweep.store.report_history())
        _mark_stopped(sweep.store, scheduler)
        rungs = ", ".join(f"{rung:g}" for rung in scheduler.rungs())
        log.info(f"ASHA compares trials after epochs {rungs}")
    searcher = PlanSearcher(sweep.plan, sweep.store, partial(trial_config, sweep, builder))
    if not searcher.num_left:
        return
    display = SweepDisplay(sweep.store, sweep.plan.num_trials)
    recorder = TrialRecorder(sweep.store, scheduler, sweep.experiments_of, display.update)
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output prints a table even with verbose = 0
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns about the disabled loggers
    tuner = tune.Tuner(
        tune.with_resources(run_trial, DRIVER_RESOURCES),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=searcher.num_left,
            max_concurrent_trials=parallel,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=sweep.uri,
            callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=sweep.experiment.train.max_failures),
            stop=StopFileStopper(sweep.uri),
            verbose=0,
        ),
    )
    hours = sweep.tune.hours
    with stop_on_request(sweep.uri, hours and 60 * hours), display:
        tuner.fit()
    recorder.delete_checkpoints()


def _trial_name(trial: Any) -> str:
    """Return the name of the trial's folder, which Ray's dashboard shows too."""
    return f"{trial.config['number']:05d}"


def trial_config(sweep: Sweep, builder: Any, trial: Trial) -> dict[str, Any]:
    """Return the argument of `run_trial`. In the tracker its runs become children of the sweep.

    Tune stores it, so it has no overrides of the command line, which may hold credentials.
    """
    experiments, client = sweep.experiments_of(trial), sweep.experiment.train.tracking
    for experiment in experiments if client else ():
        adopt(RunPaths.of(experiment).uri, sweep.uri, sweep.experiment.name, str(client))
    return {
        "number": trial.number,
        "num_reported": len(trial.reports),
        "experiments": [experiment.resolved() for experiment in experiments],
        "builder": builder,
        "file": str(Path(sweep.config).absolute()),
        "overrides": overrides_of(trial.values, **sweep.run_keys(trial, 0)),
    }


def _mark_stopped(store: TrialStore, scheduler: ResumableASHA) -> None:
    """Record trials that ASHA had stopped just before the sweep was killed."""
    for number in scheduler.stopped:
        trial = store.trials[number]
        if trial.state == "running":
            trial.state = "stopped"
            store.save(trial)
