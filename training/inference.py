"""A trained model for inference: vectors of users and items, and the weights they come from.

Shapes: B users, T positions, C channels, X items, D width.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.data.item_tables import load_item_tables
from training.data.sequences import History
from training.length import check_trained
from training.lifecycle.identity import check_identity
from training.models.base import ItemVectors, Model
from training.models.registry import build_model

GROUPS = 8
NO_HISTORY = np.zeros(1, dtype=np.int32)


@dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of its best epoch, on the tables that it was trained on."""

    model: Model
    channels: tuple[str, ...]  # "all", then those of the model
    num_items: int
    dataset_fingerprint: str

    @property
    def channel_weights(self) -> Tensor:
        """Weight of each channel in the whole score [C]."""
        return self.model.channel_weights

    @cached_property
    def _item_vectors(self) -> ItemVectors:
        item_vectors: ItemVectors = self.model.item_vectors()
        return item_vectors

    def item_vectors(self) -> Tensor:
        """Return the vectors of all items [C, X, D]."""
        return self._item_vectors.vectors.detach()

    def user_vectors(self, histories: list[History]) -> Tensor:
        """Return one vector per history and channel [B, C, D]."""
        return user_vectors(self.model, histories, self._item_vectors)


def load_trained(experiment: Experiment, device: torch.device | None = None) -> TrainedModel:
    """Load the best epoch of the experiment's run.

    InputError if the run has no weights, another configuration or length, or was trained on other
    tables.
    """
    paths = RunPaths.of(experiment)
    content = files.read_bytes(paths.best_weights)
    if content is None:
        raise InputError(f"{paths.uri}: no trained weights: run `python -m training CONFIG` first")
    check_identity(experiment)
    check_trained(experiment)
    item_tables = load_item_tables(experiment)
    fingerprint = item_tables.fingerprint
    trained_on = _metadata(content).get("dataset")
    if trained_on != fingerprint:
        raise InputError(
            f"{paths.uri}: trained on data set {trained_on}, "
            f"but {experiment.root}/dataset is {fingerprint}: "
            "train it again (--fresh) or under another name"
        )
    model = build_model(experiment, item_tables)
    _set_weights(model, load(content), paths.best_weights)
    model.to(device or torch.device("cpu")).eval()
    return TrainedModel(
        model=model,
        channels=("all", *model.channels),
        num_items=item_tables.num_items,
        dataset_fingerprint=fingerprint,
    )


def weights_fingerprint(trained: TrainedModel) -> str:
    """Return 16 hex digits of the SHA-256 of the model's parameters, in order of their names."""
    digest = hashlib.sha256()
    for name, parameter in sorted(trained.model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        values = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()[:16]


@torch.no_grad()
def user_vectors(model: Model, histories: list[History], item_vectors: ItemVectors) -> Tensor:
    """Return one vector per history and channel [B, C, D], of its last `max_length` events.

    Histories of similar length are encoded together, in a fixed number of groups: under ZeRO-3
    every rank must call the model equally often.
    """
    num_channels, _, dim = item_vectors.vectors.shape
    vectors = item_vectors.vectors.new_empty(len(histories), num_channels, dim)
    device = vectors.device
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    for group in np.array_split(np.argsort(lengths, kind="stable"), GROUPS):
        members = [histories[user] for user in group] or [NO_HISTORY]
        items_BT, lengths_B = padded(members, model.config.max_length)
        encoded = model.user_vectors(items_BT.to(device), lengths_B.to(device), item_vectors)
        vectors[torch.from_numpy(group)] = encoded[: len(group)]
    return vectors


def padded(histories: list[History], max_length: int) -> tuple[Tensor, Tensor]:
    """Return the last `max_length` events of each history, padded at the end [B, T]; lengths [B].

    T is the largest of these lengths.
    """
    recent = [history[-max_length:] for history in histories]
    lengths = torch.tensor([len(history) for history in recent])
    items = torch.zeros(len(recent), int(lengths.max()), dtype=torch.int64)
    for row, history in enumerate(recent):
        items[row, : len(history)] = torch.from_numpy(history.astype(np.int64))
    return items, lengths


def _metadata(content: bytes) -> dict[str, str]:
    """Return the string metadata in the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {})


def _set_weights(model: Model, weights: dict[str, Tensor], uri: str) -> None:
    """Set the model's weights. InputError names a tensor of the file that does not fit."""
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"{uri}: {name} has shape {found.get(name)}, this configuration needs "
                f"{expected.get(name)}: the run was trained with another [model]"
            )
    model.load_state_dict(weights)
