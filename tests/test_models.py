"""Every model keeps what training, ranking and export rely on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from small_dataset import small_experiment, write_dataset
from small_models import experiment_of, initialized_model, perturbed_model, scores_of
from torch import Tensor
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from training.data.batch import batch_of
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.data.windows import Step
from training.distributed import engine as ds
from training.inference import user_vectors
from training.models import registry
from training.models.registry import build_model
from training.step import negatives_of, noise_of, share_of, take_step

CPU = torch.device("cpu")
MODELS = tuple(registry.MODELS)
CAUSAL = tuple(name for name in MODELS if name not in ("bert4rec", "mdsrec"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_depend_only_on_the_seed(root: Path, name: str) -> None:
    experiment = experiment_of(root, name)
    tables = load_item_tables(experiment)
    first, second = (build_model(experiment, tables) for _ in range(2))
    for global_seed, model in enumerate((first, second)):
        torch.manual_seed(global_seed)
        model.initialize(1)
    for (key, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.isfinite(left).all(), key
        torch.testing.assert_close(left, right, atol=0, rtol=0, msg=key)


@pytest.mark.parametrize("cosines", [False, True])
@pytest.mark.parametrize("name", CAUSAL)
def test_the_loss_of_training_follows_from_the_scores_of_each_prefix_by_itself(
    root: Path, name: str, cosines: bool
) -> None:
    """So no prefix sees later items, and training and ranking compute the same model."""
    experiment = experiment_of(root, name, model={"temperature": 0.3} if cosines else {})
    model, step = perturbed_model(experiment), next(SequenceReader(experiment).steps(0))
    loss = model(batch_of(step, 0, 1, noise_of(model, experiment, step, (0, 0)), CPU))
    samples, histories, targets = step.samples, [], []
    for start, stop, first in zip(
        samples.starts, samples.stops, samples.first_counted, strict=True
    ):
        for end in range(start + first + 1, stop + 1):
            histories.append(samples.events[start:end])
            targets.append(int(samples.events[end]))
    expected = F.cross_entropy(scores_of(model, histories), torch.tensor(targets), reduction="sum")
    torch.testing.assert_close(loss.sum(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_vectors_of_users_do_not_depend_on_the_other_users(root: Path, name: str) -> None:
    model = perturbed_model(experiment_of(root, name)).eval()
    histories = [np.arange(3, 3 + n, dtype=np.int32) for n in (3, 12, 1, 7, 1, 2, 9, 5, 4, 6, 8)]
    items = model.item_vectors()
    users = user_vectors(model, histories, items)
    together = torch.einsum("bcd,cxd,c->bx", users, items.vectors, model.channel_weights)
    torch.testing.assert_close(together, scores_of(model, histories), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [{}, {"dim": 32, "max_length": 20}])
def test_a_history_has_the_same_bits_in_every_batch(root: Path, name: str, shape: Any) -> None:
    model = perturbed_model(experiment_of(root, name, model=shape)).eval()
    generator, items = np.random.default_rng(0), model.item_vectors()
    lengths = [1, 1, 1, *range(1, 26), *([8] * 30), 20, 20]
    histories = [generator.integers(0, 40, n).astype(np.int32) for n in lengths]
    together = user_vectors(model, histories, items)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size in (1, 7):
            starts = range(0, len(histories), size)
            parts = [user_vectors(model, histories[i : i + size], items) for i in starts]
            assert torch.equal(torch.cat(parts), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_losses_of_the_ranks_sum_to_the_loss_of_the_step(root: Path, name: str, loss: str) -> None:
    train = {"loss": loss, "num_negatives": 9 if loss == "sampled" else 0}
    experiment = experiment_of(root, name, train=train)
    model, step = perturbed_model(experiment), next(SequenceReader(experiment).steps(0))
    noise = noise_of(model, experiment, step, (0, 0))
    negatives = negatives_of(model, experiment, step, (0, 0))
    whole = model(batch_of(step, 0, 1, noise, CPU, negatives))
    assert whole.shape == model.channel_weights.shape == (len(model.channels),)
    for world_size in (2, 40):  # of 40 ranks some have no sample
        parts = [
            model(batch_of(step, rank, world_size, noise, CPU, negatives))
            for rank in range(world_size)
        ]
        torch.testing.assert_close(torch.stack(parts).sum(0), whole, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_a_gradient(root: Path, name: str) -> None:
    experiment = experiment_of(root, name)
    model, step = perturbed_model(experiment), next(SequenceReader(experiment).steps(0))
    loss = model(batch_of(step, 0, 1, noise_of(model, experiment, step, (0, 0)), CPU))
    (model.channel_weights @ loss).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


def losses_of(resolved: list[dict[str, Any]]) -> Tensor:
    """Return this rank's part of the losses of every model in its first steps."""
    return torch.stack([_engine_losses(experiment_from(one, source="test")) for one in resolved])


def _engine_losses(experiment: Experiment) -> Tensor:
    engine = ds.initialize(initialized_model(experiment), experiment, CPU)
    engine.train()

    def take(step: Step, number: int) -> Tensor:
        share = share_of(engine.module, experiment, step, (0, number), CPU)
        return take_step(engine, experiment, share)

    return _losses_of_steps(experiment, take)


def _plain_losses(experiment: Experiment) -> Tensor:
    model = initialized_model(experiment)
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.optim.lr)

    def take(step: Step, number: int) -> Tensor:
        noise = noise_of(model, experiment, step, (0, number))
        losses: Tensor = model(batch_of(step, 0, 1, noise, CPU))
        optimizer.zero_grad()
        (model.channel_weights @ losses / step.num_prefixes).backward()
        optimizer.step()
        return losses

    return _losses_of_steps(experiment, take)


def _losses_of_steps(
    experiment: Experiment, take: Callable[[Step, int], Tensor], num_steps: int = 6
) -> Tensor:
    """Take the first steps and return the loss of each per prefix, summed over the channels."""
    losses = []
    for number, step in zip(range(num_steps), SequenceReader(experiment).steps(0), strict=False):
        losses.append(take(step, number).sum().detach() / step.num_prefixes)
    return torch.stack(losses)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_workers_have_the_losses_of_plain_torch(root: Path, stage: int) -> None:
    train = {"zero_stage": stage, "batch_size": 24}
    experiments = [experiment_of(root, name, train=train) for name in MODELS]
    parts = on_ranks(2, losses_of, [experiment.resolved() for experiment in experiments])
    expected = torch.stack([_plain_losses(experiment) for experiment in experiments])
    torch.testing.assert_close(parts[0] + parts[1], expected, atol=1e-4, rtol=0)
