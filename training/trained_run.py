"""A trained run as its files describe it: all that a driver needs, without tables and weights."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.jobs import promises
from mdsrec.run_paths import RunPaths
from training.checkpoints.weights_in_use import appended_text, weights_in_use
from training.data.table_checks import check_item_tables, check_memory_table
from training.inference import ALL, MEMORY, NETWORK, SEEN, check_dataset, load_trained
from training.length import check_trained
from training.lifecycle.identity import check_identity
from training.memory import memory_fingerprint


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
    appended: str | None = None  # how many items got their rows after the training; None: none

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
            appended_text(weights_in_use(RunPaths.of(experiment))),
        )
    paths, is_trained = RunPaths.of(experiment), experiment.model.is_trained
    if not files.exists(paths.best_weights if is_trained else paths.history):
        raise InputError(f"{paths.uri}: no trained weights: run `mdsrec train CONFIG` first")
    check_identity(experiment)
    dataset = tables.fingerprint(check_item_tables(experiment))
    weights, weight_of, appended = hashlib.sha256().hexdigest()[:16], {}, None
    if is_trained:
        check_trained(experiment)
        stored = weights_in_use(paths)
        check_dataset(experiment, stored.metadata.get("dataset"), dataset)
        weights = stored.fingerprint()
        promises.check_file(stored.uri)
        appended = appended_text(stored)
        named = experiment.network.channel_weights(experiment.modalities)
        weight_of = {name: float(np.float32(weight)) for name, weight in named.items()}
    memory = None
    if experiment.model.memory:
        manifest, _ = check_memory_table(experiment)
        memory = memory_fingerprint(manifest, experiment.transitions)
        weight_of = {**weight_of, MEMORY: 1.0} | ({SEEN: 0.0} if is_trained else {})
    num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
    return TrainedRun(num_items, dataset, weights, memory, weight_of, appended)
