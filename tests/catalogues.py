"""Small catalogues with chosen items, histories and neighbors, and runs on them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import oracle as plain
import small_dataset
import torch
from random_runs import FIGURES
from small_dataset import small_experiment
from small_models import experiment_of
from torch import Tensor

from mdsrec import files, schema, table_names
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from mdsrec.table_names import neighbors_name
from training.checkpoints.tensor_file import write_checked
from training.data.item_tables import load_item_tables
from training.data.table_checks import check_item_tables
from training.models.registry import build_model

WIDTH = small_dataset.WIDTH
Neighbors = Mapping[str, Mapping[str, Sequence[str]]]
"""Ids of the neighbors of an item, nearest first, by its id, by modality."""


def experiment_on(root: Path, name: str = "sasrec", **sections: dict[str, Any]) -> Experiment:
    """Return an experiment of the model `name` whose run has that name, too."""
    found = experiment_of(root, name, **sections)
    return found.model_copy(update={"name": sections.get("run", {}).get("name", name)})


def write_catalogue(
    root: Path,
    ids: Sequence[str],
    histories: Sequence[Sequence[str]],
    neighbors: Neighbors,
    seed: int = 0,
    **sections: dict[str, Any],
) -> None:
    """Write the tables of all models for the items `ids`, which ascend.

    The last two events of a history are held out. `seed` is part of the fingerprints. An item has a
    modality if it has neighbors in it, even none.
    """
    item_of = {item_id: item for item, item_id in enumerate(ids)}
    graphs = small_experiment(root, **sections)  # of MDSRec, mu = 0.2
    experiment = experiment_of(root, "mdsrec", **sections)

    def write(name: str, table: Any, columns: list[Any]) -> None:
        small_dataset._write(experiment, name, table, columns, seed)

    items = [[item_of[each] for each in history] for history in histories]
    training = [history[:-2] for history in items]
    num_train = np.bincount(np.concatenate(training).astype(int), minlength=len(ids))
    none = [None] * len(ids)
    write("items", schema.ITEMS, [range(len(ids)), ids, ids, ids, none, num_train])
    lengths = np.array([len(history) for history in items])
    times = [list(range(n)) for n in lengths]
    users = [f"U{user:04d}" for user in range(len(items))]
    columns = [range(len(items)), users, items, times, lengths - 2, lengths - 1]
    write("sequences", schema.SEQUENCES, columns)
    O = plain.cooccurrence(training, len(ids)).numpy()  # noqa: E741
    pairs = np.nonzero(O)
    write(table_names.cooccurrence_name(experiment), schema.COOCCURRENCE, [*pairs, O[pairs]])
    for modality, lists in neighbors.items():
        owners = [item for item, item_id in enumerate(ids) if item_id in lists]
        near = [[item_of[each] for each in lists[ids[item]]] for item in owners]
        vectors = [vector_of(ids[item], modality) for item in owners]
        write(table_names.features_name(modality), schema.FEATURES, [owners, vectors])
        alike = [[1.0] * len(each) for each in near]
        for mu in (0.2, 1.0):  # of the small MDSRec, and its default, which other models read
            of_mu = graphs.model_copy(update={"model": graphs.model.model_copy(update={"mu": mu})})
            small_dataset._write(
                of_mu,
                neighbors_name(of_mu, modality),
                schema.NEIGHBORS,
                [owners, near, alike],
                seed,
            )
        centers = np.arange(len(owners)) % 3
        write(table_names.centers_name(experiment, modality), schema.CENTERS, [owners, centers])


def vector_of(item_id: str, modality: str) -> list[float]:
    """Return a feature vector that depends on the item only."""
    seed = [*item_id.encode(), *modality.encode()]
    found: list[float] = np.random.default_rng(seed).normal(size=WIDTH).tolist()
    return found


def write_run(experiment: Experiment, seed: int = 3, scale: float = 1.0) -> dict[str, Tensor]:
    """Write the files of a finished run with random weights, and return these by name."""
    item_tables = load_item_tables(experiment)
    model = build_model(experiment, item_tables)
    model.initialize(seed)
    torch.manual_seed(seed)
    weights = {
        name: (p.detach() + scale * torch.randn_like(p)).contiguous()
        for name, p in model.named_parameters()
    }
    paths = RunPaths.of(experiment)
    metadata = {"dataset": item_tables.fingerprint}
    write = partial(write_checked, tensors=weights, metadata=metadata)
    files.write_stream(paths.best_weights, write)
    history = {"epochs": [FIGURES], "best_epoch": 0, "num_parameters": 4321}
    files.write_json(paths.history, history)
    files.write_json(paths.config, experiment.resolved())
    files.write_json(paths.dataset, check_item_tables(experiment))
    return weights
