"""A rank that owns items is killed with SIGKILL, and the training goes on with the same bits."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from epoch_recorder import epochs_of_training
from gloo import on_ranks
from small_dataset import small_experiment, write_dataset
from torch import distributed, multiprocessing

from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from training.checkpoints import format as checkpoint_format
from training.checkpoints.stored_weights import StoredWeights
from training.data.table_checks import check_item_tables
from training.lifecycle.identity import claim
from training.models.shard_ranking import ShardRanking
from training.sharding import ownership
from training.sharding.peers import Peers

pytestmark = pytest.mark.slow
W = 3


def experiment_of(root: Path, name: str) -> Experiment:
    train = {
        "item_table": "sharded",
        "checkpoint_minutes": 0.0005,
        "batch_size": 12,
        "timeout_minutes": 1,
    }
    model = {"dropout": 0.3, "item_mask": 0.4}
    return small_experiment(root, train=train, model=model).model_copy(update={"name": name})


def dying_after(calls: int, action: Callable[..., Any]) -> Callable[..., Any]:
    """Return the action, whose call after so many kills rank 1."""
    left = [calls]

    def act(*arguments: Any, **keys: Any) -> Any:
        left[0] -= 1
        if left[0] < 0 and distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return action(*arguments, **keys)

    return act


def die(where: str) -> None:
    """Let rank 1 die in an exchange within the second epoch, in a save, or in a validation."""
    if where == "exchange":
        Peers.swap = dying_after(900, Peers.swap)  # type: ignore[method-assign]
    elif where == "save":
        part = checkpoint_format._part
        checkpoint_format._part = dying_after(400, part)
    elif where == "validation":
        ShardRanking.count = dying_after(4, ShardRanking.count)  # type: ignore[method-assign]


def train(resolved: dict[str, Any], where: str) -> list[list[float]]:
    ownership.BLOCK = 4
    die(where)
    return epochs_of_training(resolved)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def claimed(root: Path, name: str) -> Experiment:
    experiment = experiment_of(root, name)
    claim(experiment, check_item_tables(experiment))
    return experiment


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Experiment:
    experiment = claimed(root, "undisturbed")
    on_ranks(W, train, experiment.resolved(), "")
    return experiment


def history_of(experiment: Experiment) -> list[list[float]]:
    history = json.loads(Path(RunPaths.of(experiment).history).read_text())
    return [[epoch["loss"], epoch["ndcg@10"]] for epoch in history["epochs"]]


@pytest.mark.parametrize("where", ["exchange", "save", "validation"])
def test_a_training_of_which_a_rank_is_killed_goes_on_with_the_same_bits(
    root: Path, undisturbed: Experiment, where: str
) -> None:
    experiment = claimed(root, where)
    with pytest.raises(multiprocessing.ProcessExitedException, match="SIGKILL"):
        on_ranks(W, train, experiment.resolved(), where)
    folders = Path(RunPaths.of(experiment).checkpoints).iterdir()
    assert any(len([*folder.glob("manifest-*.json")]) == W for folder in folders)  # to go on from
    on_ranks(W, train, experiment.resolved(), "")
    assert history_of(experiment) == history_of(undisturbed)
    found, expected = (
        StoredWeights(RunPaths.of(e).best_weights).tensors() for e in (experiment, undisturbed)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
