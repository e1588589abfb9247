"""Steps of training, for any number of workers and any ZeRO stage, and validation."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from small_dataset import small_experiment, write_dataset
from torch import Tensor
from training_steps import CPU, losses_of_steps

from mdsrec import schema, tables
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from training.data.batch import batch_of
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.distributed import engine as ds
from training.inference import padded
from training.models.mdsrec.model import MDSRec
from training.progress import Progress
from training.step import noise_of, share_of, take_step
from training.validation import validate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


@pytest.fixture(scope="module")
def losses_of_one_worker(root: Path) -> Tensor:
    losses: Tensor = on_ranks(1, losses_of_steps, small_experiment(root).resolved(), 20)[0]
    return losses


def sgd_step_and_gradient(resolved: dict[str, Any]) -> list[Tensor]:
    """Return the change of the item embedding by one step of SGD, and its gradient by autograd.

    The learning rate is 1. The gradient is that of the mean loss over the prefixes of the step.
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
    weights = torch.tensor(
        [
            1.0,
            *(
                experiment.model.rho_of(m, len(experiment.modalities))
                for m in experiment.modalities
            ),
        ]
    )
    (losses @ weights / step.num_prefixes).backward()  # type: ignore[no-untyped-call]
    moved = plain.item_embedding.detach() - engine.module.item_embedding.detach()
    assert plain.item_embedding.grad is not None
    return [moved, plain.item_embedding.grad]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_follows_the_gradient_of_the_mean_over_its_prefixes(
    root: Path, world_size: int
) -> None:
    rho = {"rho": {"text": 0.8, "image": 0.2}}
    resolved = small_experiment(root, model=rho, optim={"lr": 1.0}).resolved()
    for moved, gradient in on_ranks(world_size, sgd_step_and_gradient, resolved):
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(moved, gradient, atol=1e-6, rtol=1e-4)


def validation_metrics(resolved: dict[str, Any]) -> list[float]:
    """Return ndcg@10 and recall@10 of untrained weights."""
    experiment = experiment_from(resolved, source="test")
    model = MDSRec(experiment, load_item_tables(experiment))
    model.initialize(0)
    engine = ds.initialize(model, experiment, CPU)
    metrics = validate(engine, experiment, SequenceReader(experiment), CPU)
    return [metrics["ndcg@10"], metrics["recall@10"]]


@pytest.mark.parametrize("world_size", [1, 2])
def test_validation_ranks_each_validation_event_once_without_dropout(
    root: Path, world_size: int
) -> None:
    experiment = small_experiment(root, model={"dropout": 0.5})
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
    for metrics in on_ranks(world_size, validation_metrics, experiment.resolved()):
        assert metrics == pytest.approx([ndcg / count, hits / count], abs=1e-6)


def read_sequences(experiment: Experiment) -> list[dict[str, Any]]:
    uri = tables.table_uri(experiment.root, "sequences")
    rows: list[dict[str, Any]] = tables.read_table(uri, schema.SEQUENCES).to_pylist()
    return rows


def test_training_ends_after_patience_epochs_without_improvement(root: Path) -> None:
    experiment = small_experiment(root, train={"patience": 2, "max_epochs": 9})
    progress = Progress()
    for number, ndcg in enumerate([0.1, 0.3, 0.2, 0.3]):
        assert not progress.is_finished(experiment)
        progress.finish_epoch({"ndcg@10": ndcg})
        assert progress.best_epoch == [0, 1, 1, 1][number]
    assert progress.is_finished(experiment)


def test_deepspeed_gets_the_stage_and_clips_only_if_configured(root: Path) -> None:
    assert ds.deepspeed_config(small_experiment(root))["gradient_clipping"] == 0.0
    sections: dict[str, Any] = {"train": {"zero_stage": 2}, "optim": {"gradient_clipping": 0.5}}
    config = ds.deepspeed_config(small_experiment(root, **sections))
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"]["stage"] == 2


def test_noise_differs_between_steps_and_repeats_for_the_same_step(root: Path) -> None:
    experiment = small_experiment(root)
    model = MDSRec(experiment, load_item_tables(experiment))
    step = next(SequenceReader(experiment).steps(0))
    positions = [(0, 0), (0, 1), (1, 0), (0, 0)]
    noise = [noise_of(model, experiment, step, position) for position in positions]
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2])
    assert torch.equal(noise[0], noise[3])


@pytest.mark.parametrize("stage", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_two_workers_with_different_data_take_the_same_steps_as_one(
    root: Path, losses_of_one_worker: Tensor, stage: int
) -> None:
    experiment = small_experiment(root, train={"zero_stage": stage})
    parts = on_ranks(2, losses_of_steps, experiment.resolved(), 20)
    assert not torch.allclose(parts[0], parts[1])  # the ranks hold different users
    torch.testing.assert_close(parts[0] + parts[1], losses_of_one_worker, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_more_workers_than_users_in_a_step_take_the_same_steps(root: Path) -> None:
    experiment = small_experiment(root, train={"batch_size": 6})
    expected = on_ranks(1, losses_of_steps, experiment.resolved(), 8)[0]
    parts = on_ranks(3, losses_of_steps, experiment.resolved(), 8)
    torch.testing.assert_close(sum(parts), expected, atol=1e-5, rtol=0)
