"""An experiment's training on Ray Train: `fit(experiment)`."""

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import train as ray_train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, get_device

from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.loading import experiment_from
from mdsrec.names import run_uri
from training.graph import load_item_tables
from training.identity import claim
from training.ray_session import check_capacity, ray_session, uses_gpu

log = logging.getLogger("training")


@dataclass(frozen=True)
class Fit:
    """A finished training."""

    experiment: Experiment
    history: dict[str, Any]
    trained_now: bool

    def summary(self) -> str:
        """One screen: what came out, where it stands."""
        best = self.history["epochs"][self.history["best_epoch"]]
        lines = [
            f"run         {run_uri(self.experiment)}"
            + ("" if self.trained_now else "  (done before)"),
            f"epochs      {len(self.history['epochs'])}, the best is {self.history['best_epoch']}",
            f"validation  ndcg@10 {best['ndcg@10']:.4f}  recall@10 {best['recall@10']:.4f}",
            f"parameters  {self.history['num_parameters']:,}",
        ]
        return "\n".join(lines)


def fit(experiment: Experiment, fresh: bool = False) -> Fit:
    """Train the experiment to its end, from its last checkpoint if it has one.

    InputError if the run's name belongs to another configuration or data set (unless `fresh`, which
    deletes the run once all else is in order), or if the cluster cannot hold the workers.
    """
    files.check_root(experiment.root)
    fingerprints = load_item_tables(experiment).fingerprints
    _check_events(experiment)
    if not fresh:
        claim(experiment, fingerprints)
        history = _history(experiment)
        if history.get("finished"):
            return Fit(experiment, history, trained_now=False)
        _check_world_size(experiment, history)
    with ray_session():
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
        try:
            _trainer(experiment, use_gpu).fit()
        except TrainingFailedError as error:
            raise _users_mistake(error) or error from None
    return Fit(experiment, _history(experiment), trained_now=True)


def _users_mistake(error: Exception) -> InputError | None:
    """The InputError that a worker raised, if that is what ended the training."""
    found = re.search(r"mdsrec\.errors\.InputError: (.+)", str(error))
    return InputError(found.group(1)) if found else None


def _trainer(experiment: Experiment, use_gpu: bool) -> TorchTrainer:
    config = experiment.train
    os.environ.setdefault(
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2"
    )  # an epoch's report waits for it
    return TorchTrainer(
        train_worker,
        train_loop_config=experiment.resolved(),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=experiment.name,
            storage_path=f"{experiment.root}/runs",
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(  # the best one, and always the last
                num_to_keep=1,
                checkpoint_score_attribute="ndcg@10",
                checkpoint_score_order="max",
            ),
        ),
    )


def train_worker(resolved: dict[str, Any]) -> None:
    """What Ray Train runs on every worker."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    log.setLevel(logging.INFO)  # a line an epoch
    from training.curves import LearningCurves
    from training.worker import train

    experiment = experiment_from(resolved, source="train_loop_config")
    context = ray_train.get_context()
    curves = LearningCurves(run_uri(experiment)) if context.get_world_rank() == 0 else None

    def report(metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        if curves:
            curves.add(metrics)
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            ray_train.report(metrics, checkpoint=ray_train.Checkpoint.from_directory(folder))

    checkpoint = ray_train.get_checkpoint()
    if checkpoint is None:
        train(experiment, get_device(), None, report)
    else:
        with checkpoint.as_directory() as folder:
            train(experiment, get_device(), Path(folder), report)


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


def _check_world_size(experiment: Experiment, history: dict[str, Any]) -> None:
    """InputError where DeepSpeed could not read the checkpoint: ZeRO cut it by worker."""
    before = history.get("num_workers", experiment.train.num_workers)
    if experiment.train.zero_stage >= 2 and before != experiment.train.num_workers:
        raise InputError(
            f"run {experiment.name} stopped on {before} workers: with train.zero_stage = "
            f"{experiment.train.zero_stage} it goes on with train.num_workers={before} alone"
        )


def _history(experiment: Experiment) -> dict[str, Any]:
    content = files.read_bytes(f"{run_uri(experiment)}/history.json")
    history: dict[str, Any] = json.loads(content or b"{}")
    return history
