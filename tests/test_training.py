"""Workers, ZeRO stages and interruptions change where training runs, never what it computes."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import on_ranks
from small_dataset import NUM_USERS, small_experiment, write_dataset
from torch import Tensor

from mdsrec.config import Experiment, experiment_from
from training import engine as ds
from training.data import SequenceReader
from training.graph import load_item_tables
from training.model import MDSRec
from training.worker import take_step, train

CPU = torch.device("cpu")


def losses_of_steps(resolved: dict[str, Any], num_steps: int) -> Tensor:
    """This rank's loss of each channel in the first steps of an epoch."""
    experiment = experiment_from(resolved, source="test")
    model = MDSRec(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    engine = ds.initialize(model, experiment, CPU)
    engine.train()
    reader = SequenceReader(experiment)
    losses, epoch = [], 0
    while len(losses) < num_steps:
        for number, step in enumerate(reader.steps(epoch)):
            loss = take_step(engine, experiment, step, (epoch, number), CPU)
            losses.append(loss.double() / step.num_prefixes)
        epoch += 1
    return torch.stack(losses[:num_steps])


def trained(resolved: dict[str, Any], checkpoint: str | None, folder: str, stop: int) -> list[Any]:
    """Metrics of each epoch of a training that checkpoints into `folder` and dies after epoch
    `stop`.
    """
    experiment = experiment_from(resolved, source="test")
    seen: list[Any] = []

    def report(metrics: dict[str, float], save: Any) -> None:
        seen.append([metrics["loss"], metrics["ndcg@10"]])
        if len(seen) == stop:
            save(Path(folder))
            raise InterruptedError

    with contextlib.suppress(InterruptedError):
        train(experiment, CPU, Path(checkpoint) if checkpoint else None, report)
    return seen


def small(root: Path, stage: int = 0, **sections: Any) -> Experiment:
    return small_experiment(
        root,
        **{
            **sections,
            "train": {
                "zero_stage": stage,
                "batch_size": 24,
                "max_epochs": 3,
                **sections.get("train", {}),
            },
        },
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


@pytest.fixture(scope="module")
def alone(root: Path) -> list[Tensor]:
    result: list[Tensor] = on_ranks(1, losses_of_steps, small(root).resolved(), 20)
    return result


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_workers_with_different_data_take_the_same_steps_as_one(
    root: Path, alone: list[Tensor], stage: int
) -> None:
    parts = on_ranks(2, losses_of_steps, small(root, stage).resolved(), 20)
    assert not torch.allclose(parts[0], parts[1])  # the ranks held different users
    torch.testing.assert_close(parts[0] + parts[1], alone[0], atol=1e-5, rtol=0)


def test_more_workers_than_users_in_a_step_take_the_same_steps(root: Path) -> None:
    few = small(root, train={"batch_size": 6})
    alone = on_ranks(1, losses_of_steps, few.resolved(), 8)
    parts = on_ranks(3, losses_of_steps, few.resolved(), 8)
    torch.testing.assert_close(sum(parts), alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_killed_and_resumed_run_equals_uninterrupted_run(
    root: Path, tmp_path: Path, stage: int
) -> None:
    resolved = small(root, stage, model={"dropout": 0.3}).resolved()
    folder = tmp_path
    whole = on_ranks(2, trained, resolved, None, str(folder), -1)
    first = on_ranks(2, trained, resolved, None, str(folder), 1)
    rest = on_ranks(2, trained, resolved, str(folder), str(folder), -1)
    assert first[0] + rest[0] == whole[0]


def test_every_user_is_in_an_epoch_once_in_an_order_of_its_own(root: Path) -> None:
    reader = SequenceReader(small(root))
    orders = []
    for epoch in (0, 1):
        steps = list(reader.steps(epoch))
        assert sum(len(step.samples) for step in steps) >= NUM_USERS - 20
        assert all(step.num_prefixes <= 24 for step in steps)
        orders.append([step.samples.events[step.samples.starts].tolist() for step in steps])
    assert orders[0] != orders[1]
    repeated = [s.samples.events[s.samples.starts].tolist() for s in reader.steps(0)]
    assert repeated == orders[0]


def test_targets_are_what_the_split_holds_out(root: Path) -> None:
    reader = SequenceReader(small(root))
    valid, test = (reader.targets(0, NUM_USERS, split) for split in ("valid", "test"))
    assert [t.user for t in valid] == [t.user for t in test]
    for before, after in zip(valid, test, strict=True):
        assert after.history[-1] == before.target
        assert len(after.history) == len(before.history) + 1
    shards = [
        t for first in range(0, NUM_USERS, 7) for t in reader.targets(first, first + 7, "test")
    ]
    assert [t.user for t in shards] == [t.user for t in test]
