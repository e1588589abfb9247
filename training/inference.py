"""A trained run, ready to score: the best weights beside the tables they were trained on."""

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.table_names import run_uri
from training.data.item_tables import load_item_tables
from training.lifecycle.identity import check_identity
from training.models.base import Model, Side
from training.models.registry import build_model
from training.users import user_vectors


@dataclass(frozen=True)
class Trained:
    model: Model
    channels: tuple[str, ...]  # all, then the model's
    num_items: int
    dataset_fingerprint: str

    @property
    def weights(self) -> Tensor:
        """[C], of each channel in the whole score"""
        return self.model.channel_weights

    @cached_property
    def _side(self) -> Side:
        side: Side = self.model.item_side()
        return side

    def item_vectors(self) -> Tensor:
        """[C, X, D]"""
        return self._side.vectors.detach()

    def user_vectors(self, histories: list[NDArray[np.int32]]) -> Tensor:
        """What stands before each target, oldest first -> [B, C, D]."""
        return user_vectors(self.model, histories, self._side)


def load_trained(experiment: Experiment, device: torch.device | None = None) -> Trained:
    """The best epoch of the experiment's run; InputError if it has none or another data set's."""
    run = run_uri(experiment)
    content = files.read_bytes(f"{run}/best.safetensors")
    if content is None:
        raise InputError(f"{run}: no trained weights: run `python -m training CONFIG` first")
    check_identity(experiment)
    item_tables = load_item_tables(experiment)
    standing = item_tables.fingerprint
    trained_on = _metadata(content).get("dataset")
    if trained_on != standing:
        raise InputError(
            f"{run}: trained on data set {trained_on}, "
            f"but {experiment.root}/dataset is {standing}: "
            "train it anew (--fresh) or under another name"
        )
    model = build_model(experiment, item_tables)
    _load_weights(model, load(content), run)
    model.to(device or torch.device("cpu")).eval()
    return Trained(
        model=model,
        channels=("all", *model.channels),
        num_items=item_tables.num_items,
        dataset_fingerprint=standing,
    )


def _metadata(content: bytes) -> dict[str, str]:
    """The string metadata in the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {})


def _load_weights(model: Model, weights: dict[str, Tensor], run: str) -> None:
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"{run}/best.safetensors: {name} is {found.get(name)}, this configuration needs "
                f"{expected.get(name)}: the run was trained with another [model]"
            )
    model.load_state_dict(weights)
