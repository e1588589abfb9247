"""Every model keeps the promises that training, ranking and export rely on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from small_dataset import small_experiment, write_dataset
from torch import Tensor
from torch.nn import functional as F

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.config.models import sections
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader, batch_of
from training.distributed import engine as ds
from training.inference import padded, user_vectors
from training.models.base import Model
from training.models.registry import build_model
from training.step import negatives_of, noise_of, share_of, take_step

CPU = torch.device("cpu")
MODELS = tuple(sections())
CAUSAL = tuple(name for name in MODELS if name not in ("bert4rec", "mdsrec"))
SHAPE = {"dim": 8, "max_length": 6, "dropout": 0.0}
OWN: dict[str, dict[str, Any]] = {
    "mdsrec": {"inner_dim": 12, "num_neighbors": 4, "num_centers": 3},
    "gru4rec": {"hidden_dim": 5, "num_layers": 2},
    "gru4recf": {"hidden_dim": 5},
    "unisrec": {"num_experts": 3, "adaptor_dropout": 0.0},
    "missrec": {"num_centers": 3},
    "mmmlp": {"num_layers": 2},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def experiment_of(root: Path, name: str, **sections: dict[str, Any]) -> Experiment:
    model = {"name": name, **SHAPE, **OWN.get(name, {}), **sections.pop("model", {})}
    content = {**small_experiment(root, **sections).resolved(), "model": model}
    return experiment_from(content, source="test")


def felt(experiment: Experiment) -> Model:
    """A model whose every term is felt."""
    model = build_model(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def scores_of(model: Model, histories: list[Any]) -> Tensor:
    """The whole scores [B, X], each history by itself."""
    model.eval()
    with torch.no_grad():
        item_vectors = model.item_vectors()
        arrays = [np.array(history, dtype=np.int32) for history in histories]
        longest = model.config.max_length
        found = [model.user_vectors(*padded([one], longest), item_vectors)[0] for one in arrays]
        return torch.einsum(
            "bcd,cxd,c->bx", torch.stack(found), item_vectors.vectors, model.channel_weights
        )


@pytest.mark.parametrize("name", MODELS)
def test_a_model_begins_from_its_seed_alone(root: Path, name: str) -> None:
    experiment = experiment_of(root, name)
    tables = load_item_tables(experiment)
    first, second = (build_model(experiment, tables) for _ in range(2))
    for model, seed in ((first, 1), (second, 1)):
        torch.manual_seed(id(model) % 1000)
        model.initialize(seed)
    for (key, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.isfinite(left).all(), key
        torch.testing.assert_close(left, right, atol=0, rtol=0, msg=key)


@pytest.mark.parametrize("cosines", [False, True])
@pytest.mark.parametrize("name", CAUSAL)
def test_training_loses_what_ranking_each_prefix_alone_would(
    root: Path, name: str, cosines: bool
) -> None:
    """So no prefix sees what comes after it, and training and ranking are one model."""
    experiment = experiment_of(root, name, model={"temperature": 0.3} if cosines else {})
    model, step = felt(experiment), next(SequenceReader(experiment).steps(0))
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
def test_users_of_any_length_are_encoded_as_if_alone(root: Path, name: str) -> None:
    model = felt(experiment_of(root, name)).eval()
    histories = [np.arange(3, 3 + n, dtype=np.int32) for n in (3, 12, 1, 7, 1, 2, 9, 5, 4, 6, 8)]
    item_vectors = model.item_vectors()
    together = torch.einsum(
        "bcd,cxd,c->bx",
        user_vectors(model, histories, item_vectors),
        item_vectors.vectors,
        model.channel_weights,
    )
    torch.testing.assert_close(together, scores_of(model, histories), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_ranks_take_slices_that_together_are_the_step(root: Path, name: str, loss: str) -> None:
    train = {"loss": loss, "num_negatives": 9 if loss == "sampled" else 0}
    experiment = experiment_of(root, name, train=train)
    model, step = felt(experiment), next(SequenceReader(experiment).steps(0))
    noise = noise_of(model, experiment, step, (0, 0))
    negatives = negatives_of(model, experiment, step, (0, 0))
    whole = model(batch_of(step, 0, 1, noise, CPU, negatives))
    assert whole.shape == model.channel_weights.shape == (len(model.channels),)
    for world_size in (2, 40):  # of 40 ranks some have no user
        parts = [
            model(batch_of(step, rank, world_size, noise, CPU, negatives))
            for rank in range(world_size)
        ]
        torch.testing.assert_close(torch.stack(parts).sum(0), whole, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(root: Path, name: str) -> None:
    experiment = experiment_of(root, name)
    model, step = felt(experiment), next(SequenceReader(experiment).steps(0))
    loss = model(batch_of(step, 0, 1, noise_of(model, experiment, step, (0, 0)), CPU))
    (model.channel_weights @ loss).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


def losses_of(resolved: list[dict[str, Any]]) -> Tensor:
    """This rank's part of every model's losses in its first steps."""
    found = []
    for one in resolved:
        experiment = experiment_from(one, source="test")
        engine = ds.initialize(_new(experiment), experiment, CPU)
        engine.train()
        found.append(_first_losses(experiment, lambda at, e=experiment, g=engine: _taken(g, e, at)))
    return torch.stack(found)


def _new(experiment: Experiment) -> Model:
    model = build_model(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    return model


def _taken(engine: Any, experiment: Experiment, at: tuple[Any, int]) -> Tensor:
    step, number = at
    share = share_of(engine.module, experiment, step, (0, number), CPU)
    return take_step(engine, experiment, share).sum() / step.num_prefixes


def _first_losses(experiment: Experiment, take: Callable[[Any], Tensor], steps: int = 6) -> Tensor:
    every = zip(SequenceReader(experiment).steps(0), range(steps), strict=False)
    return torch.stack([take(at).detach() for at in every])


def _plain_losses(experiment: Experiment) -> Tensor:
    model = _new(experiment)
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.optim.lr)

    def take(at: tuple[Any, int]) -> Tensor:
        step, number = at
        losses = model(batch_of(step, 0, 1, noise_of(model, experiment, step, (0, number)), CPU))
        optimizer.zero_grad()
        (model.channel_weights @ losses / step.num_prefixes).backward()
        optimizer.step()
        return losses.sum() / step.num_prefixes

    return _first_losses(experiment, take)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_workers_lose_what_plain_torch_loses(root: Path, stage: int) -> None:
    train = {"zero_stage": stage, "batch_size": 24}
    experiments = [experiment_of(root, name, train=train) for name in MODELS]
    parts = on_ranks(2, losses_of, [experiment.resolved() for experiment in experiments])
    expected = torch.stack([_plain_losses(experiment) for experiment in experiments])
    torch.testing.assert_close(parts[0] + parts[1], expected, atol=1e-4, rtol=0)
