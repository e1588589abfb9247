"""A trained run as its files describe it: all that a driver needs, without tables and weights."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.data.table_checks import check_item_tables, check_memory_table
from training.inference import ALL, MEMORY, NETWORK, SEEN, check_dataset, load_trained
from training.length import check_trained
from training.lifecycle.identity import check_identity
from training.memory import memory_fingerprint

READ_BYTES = 16 << 20
TORCH_NAMES = {"F64": "torch.float64", "F32": "torch.float32", "BF16": "torch.bfloat16"}


class Trained(Protocol):
    """A trained model, loaded or not: what identifies it, and the weights of its channels."""

    @property
    def num_items(self) -> int: ...
    @property
    def dataset_fingerprint(self) -> str: ...
    @property
    def weights_fingerprint(self) -> str: ...
    @property
    def memory_fingerprint(self) -> str | None: ...
    @property
    def weight_of(self) -> Mapping[str, float]: ...
    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def sums(self) -> Iterable[str]: ...


@dataclass(frozen=True)
class TrainedRun:
    """A trained model that is not loaded."""

    num_items: int
    dataset_fingerprint: str
    weights_fingerprint: str
    memory_fingerprint: str | None  # None without a memory
    weight_of: Mapping[str, float]  # of each channel in the whole score

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self.weight_of)

    @property
    def sums(self) -> tuple[str, ...]:
        """Return the names of the sums of channels, as of `TrainedModel.sums`."""
        return (ALL, NETWORK) if SEEN in self.weight_of else (ALL,)

    @property
    def num_vectors(self) -> int:
        """Return the number of channels that have vectors."""
        return len([name for name in self.weight_of if name not in (MEMORY, SEEN)])


def describe_trained(experiment: Experiment) -> TrainedRun:
    """Describe the best epoch of the experiment's run, as `load_trained` would load it.

    InputError as from there. Only a model of the user's own is loaded, because it alone knows its
    channels.
    """
    if ":" in experiment.model.name:
        trained = load_trained(experiment)
        return TrainedRun(
            trained.num_items,
            trained.dataset_fingerprint,
            trained.weights_fingerprint,
            trained.memory_fingerprint,
            trained.weight_of,
        )
    paths, is_trained = RunPaths.of(experiment), experiment.model.is_trained
    if not files.exists(paths.best_weights if is_trained else paths.history):
        raise InputError(f"{paths.uri}: no trained weights: run `mdsrec train CONFIG` first")
    check_identity(experiment)
    dataset = tables.fingerprint(check_item_tables(experiment))
    weights, weight_of = hashlib.sha256().hexdigest()[:16], {}
    if is_trained:
        check_trained(experiment)
        header = _header(paths.best_weights)
        check_dataset(experiment, header.get("__metadata__", {}).get("dataset"), dataset)
        weights = _fingerprint(paths.best_weights, header)
        named = experiment.network.channel_weights(experiment.modalities)
        weight_of = {name: float(np.float32(weight)) for name, weight in named.items()}
    memory = None
    if experiment.model.memory:
        manifest, _ = check_memory_table(experiment)
        memory = memory_fingerprint(manifest, experiment.transitions)
        weight_of = {**weight_of, MEMORY: 1.0} | ({SEEN: 0.0} if is_trained else {})
    num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
    return TrainedRun(num_items, dataset, weights, memory, weight_of)


def _header(uri: str) -> dict[str, Any]:
    """Return the header of a safetensors file: its metadata, and where each tensor is."""
    filesystem, path = files.file_system(uri)
    with filesystem.open_input_file(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    return header


def _fingerprint(uri: str, header: Mapping[str, Any]) -> str:
    """Return what `weights_fingerprint` does, from the file and a piece at a time."""
    digest = hashlib.sha256()
    for name in sorted(header.keys() - {"__metadata__"}):
        tensor = header[name]
        shape, kind = tuple(tensor["shape"]), TORCH_NAMES[tensor["dtype"]]
        digest.update(f"{name} {shape} {kind}".encode())
        for piece in _pieces(uri, *tensor["data_offsets"]):
            digest.update(piece)
    return digest.hexdigest()[:16]


def _pieces(uri: str, first: int, last: int) -> Iterator[bytes]:
    """Yield the bytes first <= byte < last behind the header of a safetensors file."""
    filesystem, path = files.file_system(uri)
    with filesystem.open_input_file(path) as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        for offset in range(start + first, start + last, READ_BYTES):
            yield file.read_at(min(READ_BYTES, start + last - offset), offset)
