"""Ray Train as a training uses it: the actors that it starts, and the variables of its workers."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    TrainAutoscalingCoordinatorClient,
)
from small_dataset import small_experiment

from mdsrec.command.logs import FORMAT_KEY
from training.distributed import ray_internals
from training.distributed.trainer import Trainer
from training.run import _new_trainer

WATCHER_KEY = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


def new_trainer(root: Path, monkeypatch: pytest.MonkeyPatch, local: bool) -> Trainer:
    node, address = SimpleNamespace(head=local), "" if local else "127.0.0.1:8265"
    monkeypatch.setattr("ray._private.worker._global_node", node)
    monkeypatch.setattr(ray_internals.services, "get_webui_url_from_internal_kv", lambda: address)
    lease: Any = SimpleNamespace(begin_attempt=lambda: None)
    return _new_trainer(small_experiment(root), False, lease, ())


@pytest.mark.parametrize("local", [True, False])
def test_no_actor_starts_for_data_sets_and_on_one_machine_none_for_lost_nodes(
    local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WATCHER_KEY, "")  # so that it is as before after the test
    monkeypatch.delenv(WATCHER_KEY)
    kinds = set(map(type, new_trainer(tmp_path, monkeypatch, local)._create_default_callbacks()))
    assert DatasetsCallback not in kinds and len(kinds) > 2
    assert (PlacementGroupCleanerCallback in kinds) is not local
    assert (get_env_vars_to_propagate().get(WATCHER_KEY) == "0") is local


@pytest.mark.parametrize("local", [True, False])
def test_an_autoscaler_is_asked_for_workers_only_on_a_cluster(
    local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, started = [], []
    monkeypatch.setattr(
        TrainAutoscalingCoordinatorClient, "send_resource_request", lambda *each: asked.append(each)
    )
    cancel = "cancel_resource_request"
    monkeypatch.setattr(TrainAutoscalingCoordinatorClient, cancel, lambda _: None)
    monkeypatch.setattr(
        TorchTrainer, "_initialize_and_run_controller", lambda _, **each: started.append(each)
    )
    trainer = new_trainer(tmp_path, monkeypatch, local)
    given = create_scaling_policy(trainer.scaling_config)
    trainer._initialize_and_run_controller(scaling_policy=given)
    policy = started[0]["scaling_policy"]
    policy.after_controller_start(SimpleNamespace(run_id="1"))
    decision = policy.make_decision_for_non_running_worker_group()
    asyncio.run(policy.before_controller_shutdown())
    assert decision.num_workers == 1
    assert bool(asked) is not local


def test_workers_get_the_drivers_address_log_format_and_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "RAY_ADDRESS": "10.0.0.1:6379",
        FORMAT_KEY: "json",
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": "file:/x",
    }
    for name, value in {**given, "OTHER_MLFLOW_KEY": "1"}.items():
        monkeypatch.setenv(name, value)
    new_trainer(tmp_path, monkeypatch, local=True)
    found = get_env_vars_to_propagate()
    assert {name: found.get(name) for name in given} == given
    assert "OTHER_MLFLOW_KEY" not in found
