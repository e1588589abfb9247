"""On a world whose signal only one mechanism can find, each model that has it finds the signal, and
a model without it does not.
"""

from typing import Any

import numpy as np
import pytest
import torch
from test_models import scores_of
from torch import Tensor

from mdsrec.config import Experiment
from training.data.item_tables import ItemTables, ModalityTables, membership
from training.data.sequences import Step, batch_of, windows_of
from training.models.base import Model
from training.models.registry import build_model

CPU = torch.device("cpu")
STEPS = {"bert4rec": 400}  # it learns from a part of the targets a step
CLASSES, OF_CLASS = 5, 40  # items of a class
SHAPE = {"dim": 32, "max_length": 6, "dropout": 0.1}
OWN: dict[str, dict[str, Any]] = {
    "gru4rec": {"hidden_dim": 16},
    "gru4recf": {"hidden_dim": 32, "dropout": 0.5},  # of the ids
    "unisrec": {"num_experts": 2, "adaptor_dropout": 0.0},
    "missrec": {"num_centers": CLASSES},
    "mmmlp": {"num_layers": 1},
}
ON_IDS = ("sasrec", "gru4rec", "bert4rec")
ON_FEATURES = ("sasrecf", "gru4recf", "fdsa", "mmmlp", "unisrec", "missrec")
BY_CONTENT = ("unisrec", "missrec")


IN_BATCH = {"loss": "sampled", "negatives": "in_batch"}  # who was never a target is no negative


def trained(
    name: str,
    histories: list[list[int]],
    features: dict[str, Tensor],
    num_items: int,
    train: dict[str, Any] | None = None,
) -> Model:
    """The model after its steps of Adam on all the histories together."""
    experiment = Experiment.model_validate(
        {
            "name": "world",
            "root": "world",
            "input": {"edition": "2018", "reviews": ["reviews.json"]},
            "features": {m: {"vectors": f"{m}.parquet"} for m in features},
            "model": {"name": name, **SHAPE, **OWN.get(name, {})},
            "train": train or {},
        }
    )
    tables = {m: _modality(vectors) for m, vectors in features.items()}
    num_train = np.bincount(np.concatenate(histories), minlength=num_items)
    model = build_model(experiment, ItemTables(num_items, None, tables, {}, num_train))
    model.initialize(seed=0)
    lengths = np.array([len(history) for history in histories])
    samples = windows_of(np.concatenate(histories), np.cumsum(lengths) - lengths, lengths, 6)
    step = Step(samples, int(samples.num_prefixes.sum()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    steps = STEPS.get(name, 150)
    model.train()
    torch.manual_seed(0)  # of dropout
    for _ in range(steps):
        noise = model.draw_noise(samples.num_prefixes, generator)
        negatives = model.sampler.draw(step.targets, seed=0) if model.sampler else None
        loss = model(batch_of(step, 0, 1, noise, CPU, negatives)).sum() / step.num_prefixes
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def _modality(vectors: Tensor) -> ModalityTables:
    """Its clusters are the classes: items that share their largest coordinate."""
    items = vectors.any(dim=1).nonzero()[:, 0].numpy()
    clusters = vectors[:, :CLASSES].argmax(dim=1).numpy()[items]
    return ModalityTables(None, vectors, membership(items, clusters, CLASSES))


def found(model: Model, histories: list[list[int]], targets: list[set[int]]) -> float:
    """The share of histories whose highest scores are their targets."""
    scores = scores_of(model, histories)
    best = [set(s.topk(len(t)).indices.tolist()) for s, t in zip(scores, targets, strict=True)]
    return float(np.mean([b == t for b, t in zip(best, targets, strict=True)]))


def classes(num_items: int, seed: int) -> Tensor:
    """Vectors whose first coordinates say the class, item % CLASSES; the rest is noise."""
    vectors = torch.randn(num_items, 2 * CLASSES, generator=torch.Generator().manual_seed(seed)) / 9
    vectors[torch.arange(num_items), torch.arange(num_items) % CLASSES] += 1
    return 3 * vectors


@pytest.mark.parametrize("name", ON_IDS + ON_FEATURES)
def test_the_order_of_a_sequence_is_found(name: str) -> None:
    """An item's successor on a ring comes next; its predecessor is met beside it as often. Users
    who begin elsewhere are asked.
    """
    ring, histories, asked = 30, [], []
    for start in range(ring):
        every_length = [[(start + i) % ring for i in range(length)] for length in range(3, 8)]
        (histories if start % 4 else asked).extend(every_length)
    features = {"text": torch.ones(ring, 2 * CLASSES)} if name in ON_FEATURES else {}
    model = trained(name, histories, features, ring)
    assert found(model, [h[:-1] for h in asked], [{h[-1]} for h in asked]) > 0.8


@pytest.mark.parametrize("name", (*ON_FEATURES, "sasrec"))
def test_what_an_unknown_item_is_like_tells_what_comes_next(name: str) -> None:
    """Items of a class are followed by the class's own item. Half of them never trained: only
    their features say what they are.
    """
    num_followed = CLASSES * OF_CLASS
    known = range(num_followed // 2)
    unknown = range(num_followed // 2, num_followed)
    num_items = num_followed + CLASSES

    def follower(item: int) -> int:
        return num_followed + item % CLASSES

    histories = [[item, follower(item)] for item in known]
    features = classes(num_items, seed=0)
    features[num_followed:] = features[num_followed:].roll(1, 0)  # the follower is of another kind
    given = {} if name == "sasrec" else {"text": features}
    model = trained(name, histories, given, num_items)
    share = found(model, [[item] for item in unknown], [{follower(item)} for item in unknown])
    assert share < 0.4 if name == "sasrec" else share > 0.7


@pytest.mark.parametrize("name", (*BY_CONTENT, "sasrecf"))
def test_an_item_that_never_trained_is_found_by_what_it_is_like(name: str) -> None:
    """Users stay in a class. An item that nobody had scores by its vectors alone."""
    num_items = CLASSES * OF_CLASS
    new = range(num_items - CLASSES, num_items)  # one of each class
    generator = np.random.default_rng(0)
    histories = []
    for user in range(60):
        old = np.arange(user % CLASSES, num_items - CLASSES, CLASSES)
        histories.append(generator.permutation(old)[:5].tolist())
    model = trained(name, histories, {"text": classes(num_items, seed=0)}, num_items, IN_BATCH)
    scores = scores_of(model, [history[:4] for history in histories])[:, new]
    share = float(np.mean(scores.argmax(dim=1).numpy() == np.arange(60) % CLASSES))
    assert share < 0.4 if name == "sasrecf" else share > 0.6
