"""Items without a training event leave every softmax of the loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalogues import write_catalogue
from gloo import on_ranks
from sharded_steps import NUM_ITEMS, Job, engine_of, joined, state_of, take_steps
from small_models import experiment_of, perturbed_model
from torch import Tensor

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from training.data.batch import batch_of
from training.data.device_matrices import DeviceMatrix
from training.data.item_tables import load_item_tables
from training.data.negatives import StratifiedSampler, UniformSampler, build_sampler
from training.data.sequences import SequenceReader
from training.data.sparse import SparseMatrix
from training.losses import softmax_tiles
from training.losses.full_softmax import Channel, full_softmax_loss, plain_full_softmax_loss
from training.models.base import Model
from training.models.registry import MODELS
from training.step import negatives_of, noise_of

CPU = torch.device("cpu")
UNTRAINED = [0, 5, 17, 38, 39]
TRAINED = [item for item in range(NUM_ITEMS) if item not in UNTRAINED]
EXCLUDED: dict[str, Any] = {"untrained_items": "excluded"}
SAMPLED: dict[str, Any] = {**EXCLUDED, "loss": "sampled"}
LOSSES: dict[str, dict[str, Any]] = {
    "full": EXCLUDED,
    "uniform": {**SAMPLED, "num_negatives": 9},
    "popularity": {**SAMPLED, "negatives": "popularity", "num_negatives": 9},
    "in_batch": {**SAMPLED, "negatives": "in_batch"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set in which the items UNTRAINED only occur as held-out events.

    No item has them as neighbors.
    """
    root, random = tmp_path_factory.mktemp("root"), np.random.default_rng(0)
    ids = [f"B{item:04d}" for item in range(NUM_ITEMS)]
    histories = [
        [*(ids[i] for i in random.choice(TRAINED, 8)), ids[random.choice(UNTRAINED)], ids[1]]
        for _ in range(40)
    ]
    histories.append([*(ids[i] for i in TRAINED), ids[0], ids[1]])
    near = {i: [ids[j] for j in random.choice(TRAINED, 4, replace=False)] for i in ids}
    near = {i: [j for j in each if j != i] for i, each in near.items()}
    write_catalogue(root, ids, histories, {"text": near, "image": near})
    return root


def experiment_on(root: Path, name: str, **train: Any) -> Experiment:
    model = {"include_self": False} if name == "mdsrec" else {}
    return experiment_of(root, name, model=model, train=train)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("saved_bytes", [0, softmax_tiles.SAVED_BYTES])
def test_the_full_loss_is_that_of_the_other_items(
    unit: bool, saved_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax_tiles, "SAVED_BYTES", saved_bytes)
    monkeypatch.setattr(softmax_tiles, "VECTOR_BYTES", 3 * 8 * 4)  # 3 items, some all excluded
    torch.manual_seed(0)
    num_items, excluded = 11, torch.zeros(11, dtype=torch.bool)
    excluded[[0, 1, 2, 7]] = True
    starts, columns = np.arange(12), np.array([3, 4, 5, 4, 6, 8, 9, 10, 3, 4, 5], np.int32)
    graph = SparseMatrix(starts, columns, np.ones(11, np.float32))
    table = torch.randn(num_items, 4, dtype=torch.float64, requires_grad=True)
    queries = torch.randn(2, 13, 4, dtype=torch.float64, requires_grad=True)
    kept = (~excluded).nonzero()[:, 0]
    places = torch.randint(len(kept), (13,))
    vectors = [table, table[torch.from_numpy(columns).long()]]
    if unit:
        vectors = [torch.nn.functional.normalize(each, dim=-1) for each in vectors]
    expected = plain_full_softmax_loss(queries, places, [each[kept] for each in vectors])
    channels = [Channel(0, None), Channel(0, DeviceMatrix(graph))]
    found = full_softmax_loss(
        queries, kept[places], channels, [table], unit=unit, excluded=excluded
    )
    torch.testing.assert_close(found, expected)
    weights = torch.tensor([0.7, 1.3], dtype=torch.float64)
    for each, other in zip(
        torch.autograd.grad(weights @ found, [table, queries]),
        torch.autograd.grad(weights @ expected, [table, queries]),
        strict=True,
    ):
        torch.testing.assert_close(each, other)


def test_the_row_of_an_excluded_item_gets_no_gradient() -> None:
    table = torch.randn(5, 4, requires_grad=True)
    excluded = torch.tensor([False, True, False, False, False])
    targets = torch.tensor([0, 2])
    full_softmax_loss(
        torch.randn(1, 2, 4), targets, [Channel(0, None)], [table], excluded=excluded
    ).sum().backward()
    assert table.grad is not None
    assert table.grad.abs().sum(1).ne(0).tolist() == [True, False, True, True, True]


def test_excluded_items_are_never_drawn_and_the_others_as_if_there_were_no_more() -> None:
    drawn, num_train = np.array([1, 3, 4, 8]), np.array([0, 2, 0, 5, 1, 0, 0, 0, 9])
    uniform = UniformSampler(9, 3, drawn), UniformSampler(4, 3)
    by_events = (
        StratifiedSampler(num_train.clip(1.0), 3, drawn),
        StratifiedSampler(num_train[drawn].astype(float), 3),
    )
    for some, only in (uniform, by_events):
        for seed in range(20):
            found, expected = some.draw(drawn, seed), only.draw(drawn, seed)
            assert found.items.tolist() == drawn[expected.items].tolist()
            np.testing.assert_allclose(found.log_weights, expected.log_weights)


def test_more_negatives_than_trained_items_are_refused(root: Path) -> None:
    experiment = experiment_on(root, "sasrec", **SAMPLED, num_negatives=36)
    with pytest.raises(InputError, match=r"num_negatives = 36, but 35 items have a training event"):
        build_sampler(experiment.train, load_item_tables(experiment))


def loss_of(model: Model, experiment: Experiment) -> Tensor:
    """Return the loss of each channel in the first step."""
    step = next(iter(SequenceReader(experiment).steps(0)))
    torch.manual_seed(0)
    noise = noise_of(model, experiment, step, (0, 0))
    negatives = negatives_of(model, experiment, step, (0, 0))
    batch = batch_of(step, 0, 1, noise, CPU, negatives)
    losses_C: Tensor = model(model.with_sparse_rows(batch))
    return losses_C.detach()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_no_loss_of_any_model_depends_on_the_rows_of_untrained_items(
    name: str, loss: str, root: Path
) -> None:
    experiment = experiment_on(root, name, **LOSSES[loss])
    model = perturbed_model(experiment)
    before = loss_of(model, experiment)
    with torch.no_grad():
        model.item_embedding[UNTRAINED] += 5.0
    torch.testing.assert_close(loss_of(model, experiment), before, atol=1e-4, rtol=1e-5)
    with torch.no_grad():
        model.item_embedding[TRAINED] += 5.0 * torch.randn(len(TRAINED), 8)
    assert not torch.allclose(loss_of(model, experiment), before, atol=1e-2)


def test_without_the_key_they_are_negatives(root: Path) -> None:
    experiment = experiment_on(root, "sasrec")
    model = perturbed_model(experiment)
    before = loss_of(model, experiment)
    with torch.no_grad():
        model.item_embedding[UNTRAINED] += 5.0
    assert not torch.allclose(loss_of(model, experiment), before, atol=1e-2)
    assert "untrained_items" not in experiment.identity()["train"]
    assert (
        experiment_on(root, "sasrec", **EXCLUDED).identity()["train"]
        != (experiment.identity()["train"])
    )


def test_all_trained_items_as_negatives_are_the_full_loss_without_the_others(root: Path) -> None:
    full = experiment_on(root, "sasrec", **EXCLUDED)
    sampled = experiment_on(root, "sasrec", **SAMPLED, num_negatives=len(TRAINED))
    model, other = perturbed_model(full), perturbed_model(sampled)
    torch.testing.assert_close(loss_of(model, full), loss_of(other, sampled))


Case = tuple[dict[str, Any], dict[str, Any]]
"""A resolved experiment, and the form in which ranks hold the items (keys of `Job`)."""


def trained(cases: list[Case]) -> list[dict[str, Tensor]]:
    """Return the losses, weights and moments of this rank after some steps, in each case."""
    found = []
    for resolved, form in cases:
        experiment = experiment_from(resolved, source="test")
        engine = engine_of(experiment, Job(resolved, **form))
        losses_of_steps = take_steps(engine, experiment, 0, 5)
        found.append({"losses": losses_of_steps, **state_of(engine)})
    return found


@pytest.mark.parametrize(
    "names", [["full"], pytest.param(["in_batch", "uniform"], marks=pytest.mark.slow)]
)
def test_ranks_that_own_items_leave_out_the_same_items(names: list[str], root: Path) -> None:
    of_losses = [experiment_on(root, "mdsrec", **LOSSES[name]).resolved() for name in names]
    forms: list[dict[str, Any]] = [{}, {"placed": True}, {"sharded": False}]
    alone = on_ranks(1, trained, [(resolved, {"sharded": False}) for resolved in of_losses])
    cases = [(resolved, form) for resolved in of_losses for form in forms]
    of_ranks = on_ranks(2, trained, cases)
    for number in range(len(cases)):
        found = joined([rank[number] for rank in of_ranks])
        expected = joined([alone[0][number // len(forms)]])
        for name in ("losses", "item_embedding weight", "item_embedding exp_avg"):
            torch.testing.assert_close(found[name], expected[name], atol=1e-9, rtol=1e-9)


def test_training_leaves_the_rows_of_untrained_items_as_they_start(root: Path) -> None:
    experiment = experiment_on(root, "sasrec", **EXCLUDED)
    start = experiment_on(root, "sasrec")
    [[found, pushed]] = on_ranks(1, trained, [(e.resolved(), {}) for e in (experiment, start)])
    weights, others = (
        each["item_embedding weight"].view(NUM_ITEMS, -1)[UNTRAINED] for each in (found, pushed)
    )
    moments = found["item_embedding exp_avg"].view(NUM_ITEMS, -1)
    assert not moments[UNTRAINED].any()
    assert moments[TRAINED].abs().sum(1).ne(0).all()
    assert not torch.allclose(weights, others)
