"""A sweep over the space of an experiment's [tune], on Ray Tune."""

import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from training.distributed.ray_session import ray_session
from training.lifecycle.lease import only_writer
from training.lifecycle.stopping import asking
from tuning.asked import AskedToStop
from tuning.builder import start_builder
from tuning.capacity import DRIVER, machines, size_of, trials_at_once
from tuning.live import Live
from tuning.overrides import overrides_of
from tuning.plan import Plan
from tuning.ray_tune.callbacks import Journal
from tuning.ray_tune.scheduler import Halving
from tuning.ray_tune.searcher import PlannedSearch
from tuning.ray_tune.trainable import run_trial
from tuning.space import Values, finite_values
from tuning.trials import Records, Trial, sweep_uri

log = logging.getLogger("tuning")

FREE = ("hours", "concurrent")  # keys of [tune] that a sweep may go on with other values of


class Sweep:
    """An experiment, its space and what is known of its trials."""

    def __init__(self, config: str, overrides: Sequence[str]) -> None:
        self.config, self.overrides = config, list(overrides)
        self.experiment = load_experiment(config, overrides)
        self.tune = self.experiment.tune
        if not self.tune.space:
            raise InputError(f"{config}: there is no section [tune.space], so nothing to search")
        self.uri = sweep_uri(self.experiment)
        self.plan = Plan(self.tune, self.experiment.seed)
        self.records = Records(self.uri)

    def words(self, values: Values, **more: Any) -> list[str]:
        """What overrides make the experiment one with these values."""
        return [*self.overrides, *overrides_of(values), *overrides_of(more)]

    def experiments(self, trial: Trial) -> list[Experiment]:
        """A trial's, one a seed."""
        return [
            load_experiment(self.config, self.words(trial.values, **self.identity(trial, seed)))
            for seed in range(self.tune.seeds)
        ]

    def identity(self, trial: Trial, seed: int) -> dict[str, Any]:
        """Name and seed of a trial's run."""
        name = f"{self.experiment.name}-{trial.number:05d}"
        suffix = f"-{seed}" if self.tune.seeds > 1 else ""
        return {"name": f"{name}{suffix}", "seed": self.experiment.seed + seed}

    def check_values(self) -> None:
        """InputError for the first value of the space that makes no experiment."""
        for key, domain in self.tune.space.items():
            values = finite_values(domain) if domain.is_finite else domain.uniform
            for value in values or domain.loguniform or ():
                load_experiment(self.config, self.words({key: value}))
            if domain.simplex and not domain.steps:
                even = dict.fromkeys(domain.simplex, 1 / len(domain.simplex))
                load_experiment(self.config, self.words({key: even}))

    def claim(self, resume: bool) -> None:
        """InputError if the name belongs to another sweep, or to one to `--resume`."""
        uri = f"{self.uri}/sweep.json"
        settings = self.tune.model_dump(mode="json", exclude=set(FREE))
        mine = {"experiment": self.experiment.identity(), "tune": settings}
        mine = json.loads(json.dumps(mine))
        standing = files.read_json(uri)
        if standing and standing != mine:
            raise InputError(
                f"sweep {self.experiment.name} has another configuration or space: choose another "
                f"name, or delete {self.uri}"
            )
        if standing and not resume and not self.is_done:
            raise InputError(
                f"sweep {self.experiment.name} has {len(self.records.ended())} of "
                f"{self.plan.num_trials} trials: go on with --resume, or choose another name"
            )
        files.write_json(uri, mine)

    @property
    def is_done(self) -> bool:
        return len(self.records.ended()) == self.plan.num_trials


def run_sweep(sweep: Sweep, resume: bool) -> None:
    """Make what is left of the sweep's trials, until its hours are over.

    InputError if the cluster has no room for one trial, before anything is built.
    """
    sweep.check_values()
    files.check_root(sweep.experiment.root)
    sweep.claim(resume)
    if sweep.is_done:
        return
    with only_writer(sweep.uri), ray_session(log_to_driver=False):
        size = size_of(sweep.experiment)
        at_once = trials_at_once(size, machines(), sweep.tune.concurrent or sweep.plan.num_trials)
        log.info(
            f"{sweep.experiment.name}: {sweep.plan.num_trials} trials of {size}; {at_once} at once"
        )
        builder = start_builder()
        build_listed(sweep, builder)
        _tune(sweep, builder, at_once)


def build_listed(sweep: Sweep, builder: Any) -> None:
    """Have the tables stand that the listed values of the space need."""
    listed = {
        key: finite_values(domain) for key, domain in sweep.tune.space.items() if domain.is_finite
    }
    mus = sorted({v for key, of in listed.items() if key.startswith("model.mu.") for v in of})
    ks = sorted(set(listed.get("model.num_centers", ())))
    graph = sweep.experiment.graph
    more = [f"graph.mu={[*graph.mu, *mus]}", f"graph.num_centers={[*graph.num_centers, *ks]}"]
    overrides = [*sweep.overrides, *more]
    log.info("building what trials need")
    built = ray.get(
        builder.build.remote(sweep.config, overrides, load_experiment(sweep.config, overrides))
    )
    log.info(f"built {', '.join(built) or 'nothing, all stands'}")


def _tune(sweep: Sweep, builder: Any, at_once: int) -> None:
    halving = None
    if sweep.tune.scheduler == "asha":
        epochs = sweep.experiment.train.max_epochs
        halving = Halving(sweep.tune, epochs, sweep.records.reports())
        _close_stopped(sweep.records, halving)
        log.info(f"rungs at epochs {', '.join(f'{rung:g}' for rung in halving.rungs())}")
    search = PlannedSearch(sweep.plan, sweep.records, partial(config_of, sweep, builder))
    if not search.num_left:
        return
    live = Live(sweep.records, sweep.plan.num_trials)
    journal = Journal(sweep.records, halving, sweep.experiments, live)
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints a table also at verbose = 0
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the loggers' files
    tuner = tune.Tuner(
        tune.with_resources(run_trial, DRIVER),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=halving,
            num_samples=search.num_left,
            max_concurrent_trials=at_once,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=sweep.uri,
            callbacks=[journal],
            failure_config=tune.FailureConfig(max_failures=sweep.experiment.train.max_failures),
            stop=AskedToStop(sweep.uri),
            verbose=0,
        ),
    )
    hours = sweep.tune.hours
    with asking(sweep.uri, hours and 60 * hours):
        tuner.fit()
    journal.clear()


def _name(trial: Any) -> str:
    """Of its folder, and in Ray's dashboard."""
    return f"{trial.config['number']:05d}"


def config_of(sweep: Sweep, builder: Any, trial: Trial) -> dict[str, Any]:
    """What a trial's process is told."""
    return {
        "number": trial.number,
        "told": len(trial.reports),
        "experiments": [experiment.resolved() for experiment in sweep.experiments(trial)],
        "builder": builder,
        "file": str(Path(sweep.config).absolute()),
        "overrides": sweep.words(trial.values, **sweep.identity(trial, 0)),
    }


def _close_stopped(records: Records, halving: Halving) -> None:
    """A trial that was to be stopped when the sweep was killed."""
    for number in halving.stopped:
        trial = records.trials[number]
        if trial.state == "running":
            trial.state = "stopped"
            records.save(trial)
