"""A trained model for inference: vectors of users and items, and the weights they come from.

Shapes: B users, T positions, C channels, K of them the model's, X items, D width.
"""

import hashlib
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional as F

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.jobs import promises
from mdsrec.run_paths import RunPaths, no_weights_error
from training.checkpoints.finite_weights import check_finite
from training.checkpoints.tensor_file import file_metadata
from training.checkpoints.weights_in_use import weights_in_use
from training.data.item_tables import ItemTables, load_item_tables
from training.data.sequences import History
from training.device import product_precision, to_device
from training.layers.queries import Queries, Ranking
from training.length import check_trained
from training.lifecycle.identity import check_identity
from training.memory import Memory, seen_items
from training.models.base import ItemVectors, Model
from training.models.registry import build_model, model_class

ALL, NETWORK = "all", "network"  # names of sums of channels
MEMORY, SEEN = "memory", "seen"  # names of channels beside the model's
LANES = 8  # histories are padded to multiples of so many events
NO_HISTORY = np.zeros(1, dtype=np.int32)


@dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of its best epoch, on the tables that it was trained on.

    Without a network there is only the memory of transitions.
    """

    model: Model | None
    memory: Memory | None
    num_items: int
    dataset_fingerprint: str
    weight_of: Mapping[str, float]  # of each channel in the whole score
    stored_fingerprint: str | None = None  # of weights whose rows are stored in another order

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the channels of the model, then that of the memory and that of seen items."""
        return tuple(self.weight_of)

    @property
    def sums(self) -> dict[str, Tensor]:
        """Return the weights of the channels [C] in each sum of them.

        `all` is the whole score. Beside a memory, `network` is that of the model (Eq. 22).
        """
        sums = {ALL: torch.tensor([*self.weight_of.values()])}
        if self.model is not None and self.memory is not None:
            sums[NETWORK] = F.pad(self.model.channel_weights.cpu(), (0, 2))
        return sums

    def with_weights(self, weight_of: Mapping[str, float]) -> Self:
        """Return the same model with these weights of the channels.

        It has the item vectors, if they are computed already.
        """
        other = copy(self)
        vars(other)["weight_of"] = weight_of
        return other

    @cached_property
    def weights_fingerprint(self) -> str:
        return self.stored_fingerprint or weights_fingerprint(self.model)

    @property
    def memory_fingerprint(self) -> str | None:
        return None if self.memory is None else self.memory.fingerprint

    @cached_property
    def _item_vectors(self) -> ItemVectors:
        assert self.model is not None
        item_vectors: ItemVectors = self.model.item_vectors()
        return item_vectors

    def item_vectors(self) -> Tensor:
        """Return the vectors of all items [K, X, D] in the K channels of the model."""
        if self.model is None:
            return torch.empty(0, self.num_items, 1)
        return self._item_vectors.vectors.detach()

    def vectors_between(self, first: int, last: int) -> Tensor:
        """Return the vectors of items first <= item < last [K, n, D]."""
        return self.item_vectors()[:, first:last]

    def owns(self, item: int) -> bool:
        """Return whether this process holds the vectors of the item."""
        return True

    def user_vectors(self, histories: list[History]) -> Tensor:
        """Return one vector per history and channel of the model [B, K, D]."""
        if self.model is None:
            return torch.empty(len(histories), 0, 1)
        return user_vectors(self.model, histories, self._item_vectors)

    def ranking(self, histories: list[History]) -> Ranking:
        """Return the scores of all items for B histories, whichever process holds the items."""
        return self.queries(histories)

    def queries(self, histories: list[History]) -> Queries:
        """Return all that is needed to score the items for B histories."""
        items = self.item_vectors()
        sparse = [] if self.memory is None else [self.memory.scores(histories)]
        if SEEN in self.weight_of:
            sparse.append(seen_items(histories, self.num_items))
        on_device = tuple(scores.to(items.device) for scores in sparse)
        return Queries(self.user_vectors(histories), items, on_device)


def load_trained(
    experiment: Experiment,
    device: torch.device | None = None,
    item_tables: ItemTables | None = None,
) -> TrainedModel:
    """Load the weights of the experiment's run that are in use, and the memory if it is used.

    `item_tables` are those of the experiment, where they are loaded already.

    The channels have the model's own weights, the memory has the weight 1, and items that a user
    had before are treated as others. InputError if the run has no weights, another configuration or
    length, or was trained on other tables.
    """
    check_can_load(experiment)
    paths = RunPaths.of(experiment)
    if not experiment.model.is_trained:
        return load_without_weights(experiment, item_tables)
    item_tables = item_tables or load_item_tables(experiment)
    stored = weights_in_use(paths)
    check_dataset(experiment, stored.metadata.get("dataset"), item_tables.fingerprint)
    model = model_with(experiment, item_tables, stored.tensors(), stored.uri)
    promises.check_file(stored.uri)
    model.to(device or torch.device("cpu")).eval()
    memory = Memory.load(experiment) if experiment.model.memory else None
    fingerprint = stored.fingerprint() if stored.has_order else None
    return trained_model(model, memory, item_tables, fingerprint)


def check_can_load(experiment: Experiment) -> None:
    """Raise InputError if the run has no weights, another configuration, or another length."""
    paths, is_trained = RunPaths.of(experiment), experiment.model.is_trained
    if not files.exists(paths.best_weights if is_trained else paths.history):
        raise no_weights_error(paths)
    check_identity(experiment)
    if is_trained:
        check_trained(experiment)


def load_without_weights(
    experiment: Experiment, item_tables: ItemTables | None = None
) -> TrainedModel:
    """Load a model that needs no training: only the memory."""
    item_tables = item_tables or load_item_tables(experiment)
    return trained_model(None, Memory.load(experiment), item_tables)


def trained_model(
    model: Model | None,
    memory: Memory | None,
    item_tables: ItemTables,
    fingerprint: str | None = None,
) -> TrainedModel:
    """Return the model with the channels' own weights; the memory has the weight 1."""
    weight_of = {} if model is None else model.weight_of_channel
    if memory is not None:
        weight_of = {**weight_of, MEMORY: 1.0} | ({} if model is None else {SEEN: 0.0})
    num_items, dataset = item_tables.num_items, item_tables.fingerprint
    return TrainedModel(model, memory, num_items, dataset, weight_of, fingerprint)


def load_model(experiment: Experiment, item_tables: ItemTables, content: bytes) -> Model:
    """Return the model with the weights in the safetensors file `content`."""
    check_dataset(experiment, file_metadata(content).get("dataset"), item_tables.fingerprint)
    uri = RunPaths.of(experiment).best_weights
    return model_with(experiment, item_tables, load(content), uri)


def model_with(
    experiment: Experiment, item_tables: ItemTables, weights: dict[str, Tensor], uri: str
) -> Model:
    """Return the model with the weights of the file at `uri`.

    InputError if some do not fit, or are not finite.
    """
    model = build_model(experiment, item_tables)
    set_weights(model, weights, uri)
    check_finite(model, uri)
    return model


def item_parameters(experiment: Experiment) -> tuple[str, ...]:
    """Return the names of the model's parameters with a row for each item."""
    return model_class(experiment).item_parameters


def check_dataset(experiment: Experiment, trained_on: str | None, found: str) -> None:
    """Raise InputError if the run was trained on another data set than the one found."""
    if trained_on != found:
        raise InputError(
            f"{RunPaths.of(experiment).uri}: trained on data set {trained_on}, "
            f"but {experiment.root}/dataset is {found}: give rows to its new items "
            "(`mdsrec append CONFIG`), or train it again (--fresh) or under another name"
        )


def weights_fingerprint(model: Model | None) -> str:
    """Return 16 hex digits of the SHA-256 of the model's parameters, in order of their names."""
    digest = hashlib.sha256()
    named = [] if model is None else model.named_parameters()
    for name, parameter in sorted(named):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        values = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()[:16]


def user_vectors(model: Model, histories: list[History], item_vectors: ItemVectors) -> Tensor:
    """Return one vector per history and channel [B, C, D], of its last `max_length` events."""
    return encode_histories(model, histories, item_vectors, item_vectors.vectors)


@torch.no_grad()
def encode_histories(
    model: Model, histories: list[History], inputs: Any, like_CnD: Tensor
) -> Tensor:
    """Return what `user_vectors` does, from the `inputs` of the model's method of that name.

    `like_CnD` are vectors of any items. A vector has the same bits in every batch: histories are
    encoded with those of the same padded length only, and never fewer than the model needs for
    that.
    """
    num_channels, _, dim = like_CnD.shape
    vectors = like_CnD.new_empty(len(histories), num_channels, dim)
    device, longest = vectors.device, model.config.max_length
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    padded_lengths = np.minimum(-(-lengths // LANES) * LANES, longest)
    for length in np.unique(padded_lengths).tolist():
        rows = np.flatnonzero(padded_lengths == length)
        members = [histories[row] for row in rows]
        members += [NO_HISTORY] * (model.fewest_histories(length) - len(members))
        items_BT, lengths_B = padded(members, longest)
        items_BT = F.pad(items_BT, (0, length - items_BT.shape[1]))
        items_BT, lengths_B = (to_device(part, device) for part in (items_BT, lengths_B))
        with product_precision("fp32"):
            encoded = model.user_vectors(items_BT, lengths_B, inputs)
        index = to_device(torch.from_numpy(rows), device)
        vectors.index_copy_(0, index, encoded[: len(rows)])
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


def set_weights(model: Model, weights: dict[str, Tensor], uri: str) -> None:
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
