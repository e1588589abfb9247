"""An experiment's training on Ray Train: `fit(experiment)`."""

import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import train as ray_train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from mdsrec import tables
from mdsrec.config import Experiment, experiment_from
from mdsrec.errors import InputError
from training.graph import load_item_tables
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


def run_uri(experiment: Experiment) -> str:
    return f"{experiment.root}/runs/{experiment.name}"


def fit(experiment: Experiment, fresh: bool = False) -> Fit:
    """Train the experiment to its end, from its last checkpoint if it has one.

    InputError if the run's name belongs to another configuration or data set (unless `fresh`, which
    deletes the run), or if the cluster cannot hold the workers.
    """
    tables.check_root(experiment.root)
    if fresh:
        tables.delete_folder(run_uri(experiment))
    fingerprints = load_item_tables(experiment).fingerprints
    _check_prefixes(experiment)
    _claim(experiment, fingerprints)
    history = _history(experiment)
    if history.get("finished"):
        return Fit(experiment, history, trained_now=False)
    with ray_session():
        use_gpu = uses_gpu(experiment)
        check_capacity(experiment, use_gpu)
        log.info(
            "%s: %d workers on %s, ZeRO stage %d",
            experiment.name,
            experiment.train.num_workers,
            "GPU" if use_gpu else "CPU",
            experiment.train.zero_stage,
        )
        _trainer(experiment, use_gpu).fit()
    return Fit(experiment, _history(experiment), trained_now=True)


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


def _check_prefixes(experiment: Experiment) -> None:
    uri = tables.table_uri(experiment.root, "sequences")
    if tables.open_table(uri).counters.get("prefixes") == 0:
        raise InputError(
            f"{uri}: no user has two training events, so there is no prefix to learn from: "
            "bring more data or lower sequences.k_core"
        )


def _claim(experiment: Experiment, fingerprints: dict[str, str]) -> None:
    """Make the run's folder this experiment's, or refuse: its name is its identity."""
    uri = f"{run_uri(experiment)}/config.json"
    content = tables.read_bytes(uri)
    if content is None:
        tables.write_json(uri, experiment.resolved())
        tables.write_json(f"{run_uri(experiment)}/dataset.json", fingerprints)
        return
    standing = experiment_from(json.loads(content), source=uri).identity()
    changed = sorted(_differences(standing, experiment.identity()))
    if changed:
        raise InputError(
            f"run {experiment.name} has another configuration ({', '.join(changed)} changed): "
            "choose another name, or --fresh to train it anew"
        )
    known = json.loads(tables.read_bytes(f"{run_uri(experiment)}/dataset.json") or b"{}")
    changed = sorted(name for name in fingerprints if fingerprints[name] != known.get(name))
    if changed:
        raise InputError(
            f"run {experiment.name}: its data set changed under it ({', '.join(changed)}): "
            "choose another name, or --fresh to train it anew"
        )
    tables.write_json(uri, experiment.resolved())


def _differences(left: Any, right: Any, key: str = "") -> set[str]:
    """Dotted keys at which two nested mappings differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        return {
            found
            for name in left.keys() | right.keys()
            for found in _differences(left.get(name), right.get(name), f"{key}.{name}".lstrip("."))
        }
    return set() if left == right else {key}


def _history(experiment: Experiment) -> dict[str, Any]:
    content = tables.read_bytes(f"{run_uri(experiment)}/history.json")
    history: dict[str, Any] = json.loads(content or b"{}")
    return history
