"""Small models of every kind on the small random data set, and the scores they give."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_dataset import PAPER, small_experiment
from torch import Tensor

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from training.data.item_tables import load_item_tables
from training.inference import padded
from training.models.base import Model
from training.models.registry import build_model

SHAPE = {"dim": 8, "max_length": 6, "dropout": 0.0}
OWN_KEYS: dict[str, dict[str, Any]] = {
    "mdsrec": {**PAPER, "inner_dim": 12, "num_neighbors": 4, "num_centers": 3},
    "gru4rec": {"hidden_dim": 6, "num_layers": 2},  # a product of 5 columns is odd on some CPUs
    "gru4recf": {"hidden_dim": 5},
    "unisrec": {"num_experts": 3, "adaptor_dropout": 0.0},
    "missrec": {"num_centers": 3},
    "mmmlp": {"num_layers": 2},
}


def experiment_of(root: Path, name: str, **sections: dict[str, Any]) -> Experiment:
    """Return an experiment of the model `name` on the data set at `root`.

    `sections` override keys of the sections of the same name.
    """
    model = {"name": name, **SHAPE, **OWN_KEYS.get(name, {}), **sections.pop("model", {})}
    content = {**small_experiment(root, **sections).resolved(), "model": model}
    return experiment_from(content, source="test")


def initialized_model(experiment: Experiment) -> Model:
    """Return a model with its initial weights."""
    model = build_model(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    return model


def perturbed_model(experiment: Experiment) -> Model:
    """Return a model with weights so large that every term of its equations matters."""
    model = initialized_model(experiment)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def scores_of(model: Model, histories: Sequence[Any]) -> Tensor:
    """Return the whole scores of all items [B, X], computed from each history by itself."""
    model.eval()
    with torch.no_grad():
        items = model.item_vectors()
        arrays = [np.array(history, dtype=np.int32) for history in histories]
        max_length = model.config.max_length
        users = [model.user_vectors(*padded([array], max_length), items)[0] for array in arrays]
        return torch.einsum(
            "bcd,cxd,c->bx", torch.stack(users), items.vectors, model.channel_weights
        )
