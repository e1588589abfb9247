"""Data sets with a signal that only one mechanism can learn.

Every model with the mechanism learns the signal, and a model without it does not.
"""

from typing import Any

import numpy as np
import pytest
import torch
from reference_tables import membership
from small_models import scores_of
from torch import Tensor

from mdsrec.config import Experiment
from training.data.batch import batch_of
from training.data.item_tables import ItemTables, ModalityTables
from training.data.windows import Step, windows_of
from training.models.base import Model
from training.models.registry import build_model

CPU = torch.device("cpu")
STEPS = {"bert4rec": 400}  # a step learns only from the masked targets
CLASSES, CLASS_SIZE = 5, 40
SHAPE = {"dim": 32, "max_length": 6, "dropout": 0.1}
OWN_KEYS: dict[str, dict[str, Any]] = {
    "gru4rec": {"hidden_dim": 16},
    "gru4recf": {"hidden_dim": 32, "dropout": 0.5},  # of the ids
    "unisrec": {"num_experts": 2, "adaptor_dropout": 0.0},
    "missrec": {"num_centers": CLASSES},
    "mmmlp": {"num_layers": 1},
}
ID_MODELS = ("sasrec", "gru4rec", "bert4rec")
FEATURE_MODELS = ("sasrecf", "gru4recf", "fdsa", "mmmlp", "unisrec", "missrec")
SCORE_BY_FEATURES = ("unisrec", "missrec")
# An item that is never a target is then never a negative.
IN_BATCH = {"loss": "sampled", "negatives": "in_batch"}


def trained_model(
    name: str,
    histories: list[list[int]],
    features: dict[str, Tensor],
    num_items: int,
    train: dict[str, Any] | None = None,
) -> Model:
    """Return the model after some steps of Adam, each on all histories."""
    experiment = Experiment.model_validate(
        {
            "name": "world",
            "root": "world",
            "input": {"edition": "2018", "reviews": ["reviews.json"]},
            "features": {m: {"vectors": f"{m}.parquet"} for m in features},
            "model": {"name": name, **SHAPE, **OWN_KEYS.get(name, {})},
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
    """Return tables whose clusters are the classes: items with the same largest coordinate."""
    items = vectors.any(dim=1).nonzero()[:, 0].numpy()
    clusters = vectors[:, :CLASSES].argmax(dim=1).numpy()[items]
    return ModalityTables(None, vectors, membership(items, clusters, CLASSES))


def hit_rate(model: Model, histories: list[list[int]], targets: list[set[int]]) -> float:
    """Return the share of histories whose highest scores are exactly their targets."""
    scores = scores_of(model, histories)
    best = [set(s.topk(len(t)).indices.tolist()) for s, t in zip(scores, targets, strict=True)]
    return float(np.mean([b == t for b, t in zip(best, targets, strict=True)]))


def class_vectors(num_items: int, seed: int) -> Tensor:
    """Return vectors whose first coordinates encode the class, item % CLASSES, plus noise."""
    vectors = torch.randn(num_items, 2 * CLASSES, generator=torch.Generator().manual_seed(seed)) / 9
    vectors[torch.arange(num_items), torch.arange(num_items) % CLASSES] += 1
    return 3 * vectors


@pytest.mark.parametrize("name", ID_MODELS + FEATURE_MODELS)
def test_the_order_of_a_sequence_is_learned(name: str) -> None:
    """Items follow each other on a ring, so the predecessor of an item is near it as often as its
    successor. The tested users begin at other items than the training users.
    """
    ring, histories, tested = 30, [], []
    for start in range(ring):
        every_length = [[(start + i) % ring for i in range(length)] for length in range(3, 8)]
        (histories if start % 4 else tested).extend(every_length)
    features = {"text": torch.ones(ring, 2 * CLASSES)} if name in FEATURE_MODELS else {}
    model = trained_model(name, histories, features, ring)
    assert hit_rate(model, [h[:-1] for h in tested], [{h[-1]} for h in tested]) > 0.8


@pytest.mark.parametrize("name", (*FEATURE_MODELS, "sasrec"))
def test_features_of_an_untrained_item_predict_the_next_item(name: str) -> None:
    """Every item of a class is followed by the same item. Half of the items have no training event,
    so only their features show their class.
    """
    num_followed = CLASSES * CLASS_SIZE
    in_training = range(num_followed // 2)
    untrained = range(num_followed // 2, num_followed)
    num_items = num_followed + CLASSES

    def follower(item: int) -> int:
        return num_followed + item % CLASSES

    histories = [[item, follower(item)] for item in in_training]
    features = class_vectors(num_items, seed=0)
    features[num_followed:] = features[num_followed:].roll(1, 0)  # of another class
    given = {} if name == "sasrec" else {"text": features}
    model = trained_model(name, histories, given, num_items)
    share = hit_rate(
        model, [[item] for item in untrained], [{follower(item)} for item in untrained]
    )
    assert share < 0.4 if name == "sasrec" else share > 0.7


@pytest.mark.parametrize("name", (*SCORE_BY_FEATURES, "sasrecf"))
def test_an_untrained_item_is_recommended_by_its_features(name: str) -> None:
    """Every user stays in one class. A new item is scored only by its features."""
    num_items = CLASSES * CLASS_SIZE
    new = range(num_items - CLASSES, num_items)  # one of each class
    generator = np.random.default_rng(0)
    histories = []
    for user in range(60):
        old = np.arange(user % CLASSES, num_items - CLASSES, CLASSES)
        histories.append(generator.permutation(old)[:5].tolist())
    model = trained_model(
        name, histories, {"text": class_vectors(num_items, seed=0)}, num_items, IN_BATCH
    )
    scores = scores_of(model, [history[:4] for history in histories])[:, new]
    share = float(np.mean(scores.argmax(dim=1).numpy() == np.arange(60) % CLASSES))
    assert share < 0.4 if name == "sasrecf" else share > 0.6
