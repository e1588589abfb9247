"""A random data set of some thousand items, which several processes can own, and runs on it.

Ownership is in blocks of 1,024 items. The last of four blocks has 5 items. Items TWIN and OTHER,
the first and the last one, have equal rows everywhere, so they tie in every channel.
"""

from pathlib import Path
from typing import Any

import numpy as np
import small_dataset
from random_runs import FIGURES
from safetensors.torch import save
from small_models import experiment_of

from mdsrec import files, schema, table_names
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.run_paths import RunPaths
from training.data.item_tables import load_item_tables
from training.models.registry import build_model

NUM_ITEMS, NUM_USERS, WIDTH = 3 * 1024 + 5, 40, small_dataset.WIDTH
TWIN, OTHER = 7, NUM_ITEMS - 1
CENTERS = 3


def shared_experiment(root: Path, name: str, **sections: dict[str, Any]) -> Experiment:
    """Return an experiment of the model `name`; `sections` override keys."""
    sizes = {"user_batch": 2, "item_block": 700, "cutoffs": [10], "num_workers": 1}
    sections["eval"] = {**sizes, **sections.get("eval", {})}
    if name == "transitions":  # which has no network
        content = small_dataset.small_experiment(root, eval=sections["eval"]).resolved()
        return experiment_from({**content, "model": {"name": name}}, source="test")
    return experiment_of(root, name, **sections)


def write_shared_dataset(experiment: Experiment, seed: int = 0) -> None:
    """Write random histories, features, graphs, centers and transitions as tables."""
    random = np.random.default_rng(seed)

    def write(name: str, table: Any, columns: list[Any]) -> None:
        small_dataset._write(experiment, name, table, columns, seed)

    lengths = random.integers(3, 12, NUM_USERS)
    histories = [random.integers(0, NUM_ITEMS, n) for n in lengths]
    for number, history in enumerate(histories[:12]):  # targets that tie, on two shards
        history[-1 - number % 2] = (TWIN, OTHER)[number // 6]
    items = np.arange(NUM_ITEMS)
    titles = [f"Item {i}" for i in items]
    num_train = random.integers(0, 50, NUM_ITEMS)
    ids, none = [f"B{i:05d}" for i in items], [None] * NUM_ITEMS
    write("items", schema.ITEMS, [items, ids, titles, titles, none, num_train])
    users, times = np.arange(NUM_USERS), [list(range(n)) for n in lengths]
    names = [f"U{user:03d}" for user in users]
    lists = [history.tolist() for history in histories]
    write("sequences", schema.SEQUENCES, [users, names, lists, times, lengths - 2, lengths - 1])
    pairs = np.unique(random.integers(0, NUM_ITEMS, (12_000, 2)), axis=0)
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    scores = 0.25 + (pairs.sum(1) % 8) / 3
    name = table_names.cooccurrence_name(experiment)
    write(name, schema.COOCCURRENCE, [*pairs.T, scores])
    if experiment.model.memory:
        pairs = pairs[~np.isin(pairs[:, 1], [TWIN, OTHER])]
        scores = (1 + pairs.sum(1) % 5) / 7
        write(table_names.transitions_name(experiment), schema.TRANSITIONS, [*pairs.T, scores])
        write(table_names.memory_name(experiment), schema.MEMORY, [*pairs.T, scores])
    for modality in experiment.modalities:
        _write_modality(experiment, modality, random, write)


def _write_modality(
    experiment: Experiment, modality: str, random: np.random.Generator, write: Any
) -> None:
    has = random.random(NUM_ITEMS) < 0.9
    has[[TWIN, OTHER]] = True
    items = np.flatnonzero(has)
    vectors = random.normal(size=(NUM_ITEMS, WIDTH)).astype(np.float32)
    near = [random.choice(items, 6, replace=False).tolist() for _ in range(NUM_ITEMS)]
    near[OTHER], vectors[OTHER] = near[TWIN], vectors[TWIN]
    near = [near[item] for item in items]
    none = [[0.0] * 6] * len(items)
    write(table_names.features_name(modality), schema.FEATURES, [items, vectors[items].tolist()])
    for mu in experiment.mus(modality):
        name = table_names.neighbors_name(experiment, modality, mu)
        write(name, schema.NEIGHBORS, [items, near, none])
    centers = random.integers(0, CENTERS, len(items))
    for k in experiment.all_num_centers():
        write(table_names.centers_name(experiment, modality, k), schema.CENTERS, [items, centers])


def write_shared_run(experiment: Experiment, damaged: tuple[int, ...] = ()) -> None:
    """Write the weights that a training leaves; rows of `damaged` items are NaN."""
    paths = RunPaths.of(experiment)
    history = {"epochs": [FIGURES], "best_epoch": 0, "num_parameters": 4321}
    files.write_json(paths.history, history)
    files.write_json(paths.config, experiment.resolved())
    if not experiment.model.is_trained:
        return
    item_tables = load_item_tables(experiment)
    model = build_model(experiment, item_tables)
    model.initialize(3)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name in model.item_parameters:
        if name in weights:
            weights[name][OTHER] = weights[name][TWIN]
            weights[name][[*damaged]] = float("nan")
    files.write_bytes(paths.best_weights, save(weights, {"dataset": item_tables.fingerprint}))
