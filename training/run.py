"""The training stage on Ray Train: `fit(experiment)`."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from ray import train as ray_train
from ray.train import (
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import get_device

from mdsrec import files, tables
from mdsrec.command.heartbeat import heartbeat
from mdsrec.command.logs import FORMAT_KEY, configure_logging
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.config.model_base import FeatureModelConfig
from mdsrec.errors import InputError, cause_of
from mdsrec.jobs import promises
from mdsrec.run_paths import STARTED_FROM, RunPaths
from mdsrec.table_settings import stored_fingerprints
from training.checkpoints.carried_record import CarriedRecord
from training.data.table_checks import check_item_tables
from training.device import keep_freed_memory, warn_of_slow_offload
from training.distributed.control import CollectiveInputError
from training.distributed.process_group import process_group, worker_is_leaving
from training.distributed.ray_internals import has_started_ray
from training.distributed.ray_session import (
    check_capacity,
    cpus_per_gpu,
    ray_session,
    threads_of_worker,
    uses_gpu,
)
from training.distributed.ray_train_internals import (
    ShortCoordinatorWarnings,
    propagate_to_workers,
)
from training.distributed.trainer import Trainer
from training.length import check_can_go_on, close, has_ended, is_closed, reopen
from training.lifecycle.identity import check_claim, claim
from training.lifecycle.lease import RunLease, run_lease
from training.lifecycle.stopping import GRACEFUL, forget_stop, stop_on_request
from training.loop import AttemptResult, train
from training.reporting import RayReporter
from training.tracking import Tracking
from training.untrained import validate_untrained
from training.warm.start import prepare_start

log = logging.getLogger("training")

OF_DRIVER = re.compile(f"RAY_ADDRESS|{FORMAT_KEY}|MLFLOW_.*|WANDB_.*")  # variables for the workers


@dataclass(frozen=True)
class FitResult:
    """A training that is finished, or that was stopped at `position` for a `reason`."""

    experiment: Experiment
    history: dict[str, Any]
    trained_now: bool = True
    reason: str = ""
    position: str = ""
    exit_code: int = 0  # of a signal that stopped it

    def summary(self) -> str:
        """Return the result as text for a terminal."""
        before = "" if self.trained_now else "  (trained before)"
        lines = [f"run         {RunPaths.of(self.experiment).uri}{before}"]
        if self.reason:
            lines.append(f"stopped     {self.reason}: {self.position}")
        if STARTED_FROM in self.history:
            record = CarriedRecord.from_fields(self.history[STARTED_FROM], lines[0])
            lines.append(f"started     from {record.source}")
            lines += [f"{'':<12}{text}" for text in (record.items_text, record.weights_text)]
        if self.history:
            best = self.history["epochs"][self.history["best_epoch"]]
            lines += [
                f"epochs      {len(self.history['epochs'])}, "
                f"best epoch {self.history['best_epoch']}",
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
) -> FitResult:
    """Train the experiment from its last checkpoint to its end, or until a stop is requested.

    `fresh` deletes the run first, after all checks. `minutes` limits the time. `callbacks` are
    called by Ray Train after every epoch. With `takes_over` the run is taken from another driver.
    InputError if the run belongs to another configuration or data set or has the weights of a
    longer training (unless `fresh`), if another driver is training it, if the cluster cannot hold
    the workers, or if a table is replaced meanwhile.
    """
    heartbeat.begin("checking the tables and the run")
    files.check_root(experiment.root)
    with promises.promised(stored_fingerprints(experiment)):
        return _fit(experiment, fresh, minutes, callbacks, takes_over)


def _fit(
    experiment: Experiment,
    fresh: bool,
    minutes: float | None,
    callbacks: Sequence[UserCallback],
    takes_over: bool,
) -> FitResult:
    fingerprints = check_item_tables(experiment)
    _check_num_events(experiment)
    _check_room(experiment)
    if not fresh:
        check_claim(experiment, fingerprints)
        if has_ended(experiment):
            return _trained_before(experiment, takes_over)
        check_can_go_on(experiment)
    paths = RunPaths.of(experiment)
    run = paths.uri
    if not experiment.model.is_trained:
        with run_lease(run, takes_over):
            if fresh:
                files.delete_folder(run)
            claim(experiment, fingerprints)
            return FitResult(experiment, validate_untrained(experiment))
    with run_lease(run, takes_over) as lease, _ray_for(run):
        use_gpu = uses_gpu(experiment)
        check_capacity(experiment, use_gpu)
        if fresh:
            files.delete_folder(run)
        files.delete_file(paths.metrics)  # they are of the weights so far
        reopen(experiment)
        claim(experiment, fingerprints)
        prepare_start(experiment)
        threads = threads_of_worker(experiment.train)
        if not use_gpu:
            _note_threads(experiment, threads)
        log.info(
            "%s: %d workers on %s, ZeRO stage %d",
            experiment.name,
            experiment.train.num_workers,
            "GPU" if use_gpu else f"CPU, {threads} threads each",
            experiment.train.zero_stage,
        )
        with stop_on_request(run, minutes) as request:
            new_trainer = partial(_new_trainer, experiment, use_gpu, lease, callbacks)
            result = _run_attempts(new_trainer, experiment.train.max_failures)
    if result.finished:
        files.delete_file(paths.initial_weights)
        return FitResult(experiment, _history(experiment))
    reason = request.reason or "the file `stop`"
    if not result.is_saved:
        reason += ", not saved there (training will continue from the checkpoint before)"
    return FitResult(
        experiment, _history(experiment), True, reason, result.position, request.exit_code
    )


def _note_threads(experiment: Experiment, threads: int) -> None:
    """Log it if the run so far was trained on workers of another number of threads."""
    before = _history(experiment).get("threads", threads)
    if before != threads:
        log.info(
            "%s: workers had %d threads so far and have %d now: sums differ in their last bits; "
            "train.cpus_per_worker=%d is as before",
            experiment.name,
            before,
            threads,
            before,
        )


@contextmanager
def _ray_for(run: str) -> Iterator[None]:
    """Use Ray for a training. A stop file made while Ray starts is a request to stop."""
    forget_stop(run)
    with ray_session(graceful=GRACEFUL):
        yield


def _trained_before(experiment: Experiment, takes_over: bool) -> FitResult:
    """Return the result of a run that has all its epochs."""
    if not is_closed(experiment):  # it was finished with other limits, or went on since then
        with run_lease(RunPaths.of(experiment).uri, takes_over):
            has_ended(experiment)  # another driver may have trained it until now
            close(experiment)
    return FitResult(experiment, _history(experiment), trained_now=False)


def _run_attempts(new_trainer: Callable[[], Trainer], max_failures: int) -> AttemptResult:
    """Start attempts until one is finished or stopped. Raise the failure after `max_failures`.

    Ray's controller could restart the workers itself. But a controller that is killed while its
    workers die requests resources as its last act, and nothing releases them.
    """
    failures = 0
    while True:
        try:
            result = _run_attempt(new_trainer())
        except WorkerGroupError as error:
            promises.check_opened()  # it may have failed because its tables were replaced
            failures += 1
            if failures > max_failures:
                raise
            cause = cause_of(str(next(iter(error.worker_failures.values()))))
            log.warning(
                "a worker was lost: starting again, %d of %d times: %s",
                failures,
                max_failures,
                cause,
            )
            continue
        if not result.restart:
            return result
        log.info("a worker's node leaves the cluster: starting again from %s", result.position)


def _run_attempt(trainer: Trainer) -> AttemptResult:
    heartbeat.begin("training on the workers")
    try:
        returned = trainer.fit().return_value
    except TrainingFailedError as error:
        raise _input_error(error) or error from None
    if isinstance(returned, str):
        raise InputError(returned)
    return AttemptResult(*returned)


def _input_error(error: Exception) -> InputError | None:
    """Return the InputError that a worker raised, if that is what ended the training."""
    found = re.search(r"mdsrec\.errors\.InputError: (.+)", str(error))
    return InputError(found.group(1)) if found else None


def _new_trainer(
    experiment: Experiment, use_gpu: bool, lease: RunLease, callbacks: Sequence[UserCallback]
) -> Trainer:
    config = experiment.train
    propagate_to_workers(filter(OF_DRIVER.fullmatch, os.environ))
    if has_started_ray():  # no autoscaler takes this machine away
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray takes the reports of an epoch at its next health check.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # progress bars are printed
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = f"{60 * config.timeout_minutes:g}"
    return Trainer(
        train_worker,
        train_loop_config={
            "experiment": experiment.resolved(),
            "attempt": lease.begin_attempt(),
            "promised": promises.current(),
            "shows_bar": sys.stderr.isatty(),
            "threads": threads_of_worker(config),
        },
        torch_config=process_group(config.timeout_minutes),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.cpus_requested, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=experiment.name,
            storage_path=f"{experiment.root}/runs",
            failure_config=FailureConfig(max_failures=0),
            callbacks=[ShortCoordinatorWarnings(), *callbacks],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def train_worker(config: dict[str, Any]) -> AttemptResult | str:
    """Train on one worker of Ray Train.

    A mistake of the user that every worker finds is returned as text, not raised: Ray takes a
    raised one for a lost worker.
    """
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    experiment = experiment_from(config["experiment"], source="train_loop_config")
    rank = ray_train.get_context().get_world_rank()
    configure_logging(experiment.name, rank)
    # For less than one CPU per worker, Ray leaves torch at one thread per core of the machine.
    device, threads = get_device(), config["threads"]
    threads = threads if device.type == "cpu" else max(threads, cpus_per_gpu())
    torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()
    if rank == 0:
        warn_of_slow_offload(experiment, device, threads)
    tracking = Tracking.of(experiment) if rank == 0 else None
    more = [tracking] if tracking else []
    try:
        with (
            promises.promised(config["promised"]),
            RayReporter(experiment, rank, config["shows_bar"], more) as reporter,
        ):
            return train(experiment, device, reporter, worker_is_leaving, config["attempt"])
    except CollectiveInputError as error:
        return str(error)


def _check_num_events(experiment: Experiment) -> None:
    """Raise InputError if there is no event to train on, or none to validate on."""
    uri = tables.table_uri(experiment.root, "sequences")
    counters = tables.open_table(uri).counters
    for counter, problem in (
        ("prefixes", "no user has two training events, so there is no prefix to learn from"),
        ("valid", "no user has three events, so there is nothing to validate on"),
    ):
        if counters.get(counter) == 0:
            raise InputError(f"{uri}: {problem}: add data or lower sequences.k_core")


def _check_room(experiment: Experiment) -> None:
    """Raise InputError if the disk has no room for a checkpoint: item table and Adam's two moments.

    Models of features may have no item table.
    """
    if isinstance(experiment.model, FeatureModelConfig) or not experiment.model.is_trained:
        return
    num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
    checkpoint = 3 * 4 * num_items * experiment.network.dim
    files.check_room(experiment.root, checkpoint, "the checkpoints of this model")


def _history(experiment: Experiment) -> dict[str, Any]:
    return RunPaths.of(experiment).read_history()
