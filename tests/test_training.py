"""Workers, ZeRO stages and interruptions change where training runs, never what it computes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from small_dataset import NUM_USERS, small_experiment, write_dataset
from torch import Tensor

from mdsrec import schema, tables
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from training.data.batch import batch_of
from training.data.item_tables import load_item_tables
from training.data.sequences import EpochPosition, SequenceReader
from training.data.windows import Step
from training.distributed import engine as ds
from training.inference import padded
from training.models.mdsrec.model import MDSRec
from training.progress import Progress
from training.step import noise_of, share_of, take_step
from training.validation import validate

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
            share = share_of(engine.module, experiment, step, (epoch, number), CPU)
            loss = take_step(engine, experiment, share)
            losses.append(loss.double() / step.num_prefixes)
        epoch += 1
    return torch.stack(losses[:num_steps])


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


def gradients(resolved: dict[str, Any]) -> list[Tensor]:
    """What the first step moves weights by, at learning rate 1 without Adam's scaling; and what the
    whole step's mean loss, differentiated plainly, would move them by.
    """
    experiment = experiment_from(resolved, source="test")
    model, plain = (MDSRec(experiment, load_item_tables(experiment)) for _ in range(2))
    model.initialize(0)
    plain.initialize(0)
    step = next(SequenceReader(experiment).steps(0))
    torch.optim.Adam = lambda parameters, lr, **_: torch.optim.SGD(parameters, lr)  # type: ignore
    engine = ds.initialize(model, experiment, CPU)
    engine.train()
    take_step(engine, experiment, share_of(model, experiment, step, (0, 0), CPU))
    losses = plain(batch_of(step, 0, 1, noise_of(plain, experiment, step, (0, 0)), CPU))
    weights = torch.tensor([1.0, *(experiment.rho(m) for m in experiment.modalities)])
    (losses @ weights / step.num_prefixes).backward()  # type: ignore[no-untyped-call]
    moved = plain.item_embedding.detach() - engine.module.item_embedding.detach()
    assert plain.item_embedding.grad is not None
    return [moved, plain.item_embedding.grad]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_follows_the_gradient_of_the_mean_over_its_prefixes(
    root: Path, world_size: int
) -> None:
    rho = {"rho": {"text": 0.8, "image": 0.2}}
    resolved = small(root, model=rho, optim={"lr": 1.0}).resolved()
    for moved, gradient in on_ranks(world_size, gradients, resolved):
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(moved, gradient, atol=1e-6, rtol=1e-4)


def validated(resolved: dict[str, Any]) -> list[float]:
    """ndcg@10 and recall@10 of untrained weights."""
    experiment = experiment_from(resolved, source="test")
    model = MDSRec(experiment, load_item_tables(experiment))
    model.initialize(0)
    engine = ds.initialize(model, experiment, CPU)
    found = validate(engine, experiment, SequenceReader(experiment), CPU)
    return [found["ndcg@10"], found["recall@10"]]


@pytest.mark.parametrize("world_size", [1, 2])
def test_validation_ranks_each_validation_event_once_without_dropout(
    root: Path, world_size: int
) -> None:
    experiment = small(root, model={"dropout": 0.5})
    model = MDSRec(experiment, load_item_tables(experiment)).eval()
    model.initialize(0)
    item_vectors = model.item_vectors()
    ndcg, hits, count = 0.0, 0, 0
    for row in read_sequences(experiment):
        if row["valid_end"] == row["train_end"]:
            continue
        history = np.array(row["items"][: row["train_end"]], dtype=np.int32)
        query = model.user_vectors(*padded([history], experiment.model.max_length), item_vectors)
        scores = torch.einsum("cd,cxd,c->x", query[0], item_vectors.vectors, model.channel_weights)
        rank = 1 + int((scores > scores[row["items"][row["train_end"]]]).sum())
        count, hits = count + 1, hits + (rank <= 10)
        ndcg += 1 / math.log2(1 + rank) if rank <= 10 else 0.0
    for found in on_ranks(world_size, validated, experiment.resolved()):
        assert found == pytest.approx([ndcg / count, hits / count], abs=1e-6)


def read_sequences(experiment: Experiment) -> list[dict[str, Any]]:
    uri = tables.table_uri(experiment.root, "sequences")
    rows: list[dict[str, Any]] = tables.read_table(uri, schema.SEQUENCES).to_pylist()
    return rows


def test_training_ends_after_patience_epochs_without_a_better_one(root: Path) -> None:
    experiment = small(root, train={"patience": 2, "max_epochs": 9})
    progress = Progress()
    for number, ndcg in enumerate([0.1, 0.3, 0.2, 0.3]):
        assert not progress.is_finished(experiment)
        progress.finish_epoch({"ndcg@10": ndcg})
        assert progress.best_epoch == [0, 1, 1, 1][number]
    assert progress.is_finished(experiment)


def test_deepspeed_is_told_its_stage_and_never_clips_unasked(root: Path) -> None:
    assert ds.deepspeed_config(small(root))["gradient_clipping"] == 0.0
    config = ds.deepspeed_config(small(root, stage=2, optim={"gradient_clipping": 0.5}))
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"]["stage"] == 2


def test_noise_differs_by_step_and_repeats_for_the_same_one(root: Path) -> None:
    experiment = small(root)
    model = MDSRec(experiment, load_item_tables(experiment))
    step = next(SequenceReader(experiment).steps(0))
    positions = [(0, 0), (0, 1), (1, 0), (0, 0)]
    noise = [noise_of(model, experiment, step, position) for position in positions]
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2])
    assert torch.equal(noise[0], noise[3])


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


def test_the_steps_after_a_place_are_those_that_were_left_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = SequenceReader(small(root))
    walk = list(reader.steps_from(1, EpochPosition()))
    assert {place.window for _, place in walk} == {0, 1, 2}  # two windows
    groups = [len(window) for window in reader._shuffle_windows(1)]
    assert [place.number for _, place in walk] == list(range(1, len(walk) + 1))
    read: list[Any] = []
    monkeypatch.setattr(
        reader, "_read_group", lambda g, r=reader._read_group: read.append(g) or r(g)
    )
    for done, (_, place) in enumerate(walk, 1):
        read.clear()
        rest = list(reader.steps_from(1, place))
        assert [p for _, p in rest] == [p for _, p in walk[done:]]
        for (step, _), (expected, _) in zip(rest, walk[done:], strict=True):
            assert_same_users(step, expected)
        assert len(read) == sum(groups[place.window :])
    assert walk[-1][1].share == 1.0


def assert_same_users(step: Step, other: Step) -> None:
    for name in ("starts", "stops", "first_counted"):
        found, expected = getattr(step.samples, name), getattr(other.samples, name)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(step.samples.events, other.samples.events)


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
