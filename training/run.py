"""An experiment's training on Ray Train: `fit(experiment)`."""

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from ray import train as ray_train
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer, get_device

from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError, last_words
from mdsrec.logs import log_lines
from mdsrec.table_names import run_uri
from training.data.item_tables import load_item_tables
from training.distributed.control import JointError
from training.distributed.process_group import process_group, worker_leaves
from training.distributed.ray_session import check_capacity, ray_session, uses_gpu
from training.lifecycle.identity import check_claim, claim
from training.lifecycle.lease import Writer, only_writer
from training.lifecycle.stopping import asking
from training.loop import Ending, train

log = logging.getLogger("training")


@dataclass(frozen=True)
class Fit:
    """A training that is done, or that was asked to stop for a `reason`."""

    experiment: Experiment
    history: dict[str, Any]
    trained_now: bool = True
    reason: str = ""
    where: str = ""

    def summary(self) -> str:
        """One screen: what came out, where it stands."""
        lines = [
            f"run         {run_uri(self.experiment)}"
            + ("" if self.trained_now else "  (done before)")
        ]
        if self.reason:
            lines.append(f"stopped     {self.reason}: {self.where}")
        if self.history:
            best = self.history["epochs"][self.history["best_epoch"]]
            lines += [
                f"epochs      {len(self.history['epochs'])}, "
                f"the best is {self.history['best_epoch']}",
                f"validation  ndcg@10 {best['ndcg@10']:.4f}  recall@10 {best['recall@10']:.4f}",
                f"parameters  {self.history['num_parameters']:,}",
            ]
        return "\n".join(lines)


def fit(
    experiment: Experiment,
    fresh: bool = False,
    minutes: float | None = None,
    callbacks: Sequence[UserCallback] = (),
    takes_over: bool = False,
) -> Fit:
    """Train the experiment to its end, from its last checkpoint if it has one, or until it is asked
    to stop. Ray Train's `callbacks` hear of every epoch. A driver that trains it already gives way
    where this one `takes_over`.

    InputError if the run's name belongs to another configuration or data set (unless `fresh`, which
    deletes the run once all else is in order), or if the cluster cannot hold the workers.
    """
    files.check_root(experiment.root)
    fingerprints = load_item_tables(experiment).fingerprints
    _check_events(experiment)
    if not fresh:
        check_claim(experiment, fingerprints)
        history = _history(experiment)
        if history.get("finished"):
            return Fit(experiment, history, trained_now=False)
    with only_writer(run_uri(experiment), takes_over) as writer, ray_session():
        use_gpu = uses_gpu(experiment)
        check_capacity(experiment, use_gpu)
        if fresh:
            files.delete_folder(run_uri(experiment))
        claim(experiment, fingerprints)
        log.info(
            "%s: %d workers on %s, ZeRO stage %d",
            experiment.name,
            experiment.train.num_workers,
            "GPU" if use_gpu else "CPU",
            experiment.train.zero_stage,
        )
        with asking(run_uri(experiment), minutes) as asked:
            trainer = partial(_trainer, experiment, use_gpu, writer, callbacks)
            ending = _ended(trainer, experiment.train.max_failures)
    if ending.finished:
        return Fit(experiment, _history(experiment))
    reason = asked.reason or "the file `stop`"
    if not ending.is_saved:
        reason += ", not saved there (it goes on from the checkpoint before)"
    return Fit(experiment, _history(experiment), reason=reason, where=ending.where)


def _ended(trainer: Callable[[], TorchTrainer], max_failures: int) -> Ending:
    """How the training ended, after as many attempts as that takes.

    Ray's controller could make the next attempt itself; but one that is killed while its workers
    die asks for room as its last act, and nobody gives that back.
    """
    failures = 0
    while True:
        try:
            ending = _attempted(trainer())
        except WorkerGroupError as error:
            failures += 1
            if failures > max_failures:
                raise
            cause = last_words(str(next(iter(error.worker_failures.values()))))
            log.warning(
                "a worker was lost: starting again, %d of %d times: %s",
                failures,
                max_failures,
                cause,
            )
            continue
        if not ending.leaves:
            return ending
        log.info("a worker's node leaves: starting again from %s", ending.where)


def _attempted(trainer: TorchTrainer) -> Ending:
    try:
        outcome = trainer.fit().return_value
    except TrainingFailedError as error:
        raise _users_mistake(error) or error from None
    if isinstance(outcome, str):
        raise InputError(outcome)
    return Ending(*outcome)


def _users_mistake(error: Exception) -> InputError | None:
    """The InputError that a worker raised, if that is what ended the training."""
    found = re.search(r"mdsrec\.errors\.InputError: (.+)", str(error))
    return InputError(found.group(1)) if found else None


def _trainer(
    experiment: Experiment, use_gpu: bool, writer: Writer, callbacks: Sequence[UserCallback]
) -> TorchTrainer:
    config = experiment.train
    # An epoch's report waits for the next look at the workers.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # bars are printed
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = f"{60 * config.timeout_minutes:g}"
    return TorchTrainer(
        train_worker,
        train_loop_config={
            "experiment": experiment.resolved(),
            "attempt": writer.begin_attempt(),
            "shows_bar": sys.stderr.isatty(),
        },
        torch_config=process_group(config.timeout_minutes),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=experiment.name,
            storage_path=f"{experiment.root}/runs",
            failure_config=FailureConfig(max_failures=0),
            callbacks=list(callbacks),
        ),
    )


def train_worker(config: dict[str, Any]) -> Ending | str:
    """What Ray Train runs on every worker -> how it ended, or the mistake that all of them found:
    raised, Ray would take it for a failure and start again.
    """
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    from training.bar import Bar
    from training.curves import LearningCurves
    from training.gauges import Gauges

    experiment = experiment_from(config["experiment"], source="train_loop_config")
    rank = ray_train.get_context().get_world_rank()
    log_lines(experiment.name, rank)
    # Ray leaves them at the machine's cores where a worker asks for less than one.
    torch.set_num_threads(max(1, round(experiment.train.cpus_per_worker)))
    curves = LearningCurves(run_uri(experiment)) if rank == 0 else None
    gauges = Gauges(experiment.name) if rank == 0 else None
    show = Bar().show if rank == 0 and config["shows_bar"] else None
    tell = gauges.set if gauges else None

    def report(metrics: dict[str, float]) -> None:
        if curves and gauges:
            curves.add(metrics)
            gauges.set(metrics)
        ray_train.report(metrics)

    try:
        return train(experiment, get_device(), report, worker_leaves, config["attempt"], show, tell)
    except JointError as error:
        return str(error)


def _check_events(experiment: Experiment) -> None:
    """InputError if there is nothing to learn from, or nothing to tell the best epoch by."""
    uri = tables.table_uri(experiment.root, "sequences")
    counters = tables.open_table(uri).counters
    for counter, lack in (
        ("prefixes", "no user has two training events, so there is no prefix to learn from"),
        ("valid", "no user has three events, so there is nothing to validate on"),
    ):
        if counters.get(counter) == 0:
            raise InputError(f"{uri}: {lack}: bring more data or lower sequences.k_core")


def _history(experiment: Experiment) -> dict[str, Any]:
    return files.read_json(f"{run_uri(experiment)}/history.json")
