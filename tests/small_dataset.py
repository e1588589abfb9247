"""A small random data set, written directly as tables, for tests without Spark."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import oracle as plain
import pyarrow as pa
import pyarrow.parquet
import tomli_w
import torch

from mdsrec import schema, table_names, tables
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.run_tables import is_needed
from mdsrec.table_settings import table_settings

NUM_ITEMS, NUM_USERS, WIDTH = 40, 61, 6

PAPER = {"memory": False, "temperature": 0.0, "item_mask": 0.0, "include_self": True, "mu": 0.2}
"""The equations as the paper prints them, without what was chosen on validation."""


def small_experiment(root: Path, **sections: dict[str, Any]) -> Experiment:
    """Return an experiment with two modalities on the data at `root`; `sections` override it."""
    content: dict[str, Any] = {
        "name": "small",
        "root": str(root),
        "input": {"edition": "2018", "reviews": ["reviews.json"]},
        "features": {m: {"vectors": f"{m}.parquet"} for m in ("text", "image")},
        "graph": {"max_neighbors": 6},
        "transitions": {"mu": 0.2, "num_neighbors": 4, "tau": 20.0},
        "model": {
            **PAPER,
            "dim": 8,
            "inner_dim": 12,
            "max_length": 6,
            "num_neighbors": 4,
            "num_centers": 3,
            "dropout": 0.0,
        },
        "optim": {"lr": 0.01},
        "train": {"batch_size": 24, "max_epochs": 3, "shuffle_window": 25},
        "eval": {"user_batch": 7, "item_block": 16, "num_workers": 1},
    }
    for section, values in sections.items():
        content[section] = {**content.get(section, {}), **values}
    return experiment_from(content, source="test")


def toml_of(experiment: Experiment, folder: Path) -> str:
    """Write the experiment as a TOML file into `folder`, for a command -> its path."""
    file = folder / f"{experiment.name}.toml"
    content = {key: value for key, value in experiment.resolved().items() if key != "tune"}
    file.write_text(tomli_w.dumps(_without_none(content)))
    return str(file)


def _without_none(section: Any) -> Any:
    """Return a section without the keys that are not set, which TOML cannot write."""
    if not isinstance(section, dict):
        return section
    return {key: _without_none(value) for key, value in section.items() if value is not None}


def title_of(item: int) -> str | None:
    """Return the title of an item; every third has none."""
    return f"Item <{item}> & co" if item % 3 else None


def write_dataset(experiment: Experiment, seed: int = 0, users_per_file: int = 20) -> None:
    """Write random histories and features, and the tables that the ETL would derive from them."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 15, NUM_USERS)
    histories = [generator.integers(0, NUM_ITEMS, n).tolist() for n in lengths]
    train_end = [n - 2 if n > 2 else n for n in lengths]
    training = [history[:end] for history, end in zip(histories, train_end, strict=True)]
    num_train = np.bincount(np.concatenate(training).astype(int), minlength=NUM_ITEMS)
    item = np.arange(NUM_ITEMS, dtype=np.int32)
    item_id = [f"B{i:04d}" for i in item]
    titles = [title_of(i) for i in item]
    _write(
        experiment,
        "items",
        schema.ITEMS,
        [item, item_id, titles, titles, [None] * NUM_ITEMS, num_train],
        seed,
    )
    users = np.arange(NUM_USERS)
    _write(
        experiment,
        "sequences",
        schema.SEQUENCES,
        [
            users,
            [f"U{u:04d}" for u in users],
            histories,
            [list(range(n)) for n in lengths],
            train_end,
            [n - 1 if n > 2 else n for n in lengths],
        ],
        seed,
        rows_per_file=users_per_file,
    )
    O = plain.cooccurrence(training, NUM_ITEMS)  # noqa: E741
    rows, columns = np.nonzero(O.numpy())
    _write(
        experiment,
        table_names.cooccurrence_name(experiment),
        schema.COOCCURRENCE,
        [rows, columns, O.numpy()[rows, columns]],
        seed,
    )
    if experiment.model.memory:
        _write_memory(experiment, histories, seed)
    for number, modality in enumerate(experiment.features):
        has = np.ones(NUM_ITEMS, dtype=bool)
        has[: 5 * number] = False  # the first items have no image
        _write_modality(experiment, modality, has, plain.normalized(O, "row"), generator, seed)


def _write_memory(experiment: Experiment, histories: list[list[int]], seed: int) -> None:
    """Write how often an item follows another, held-out events included, as the memory."""
    counts = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for history in histories:
        np.add.at(counts, (history[:-1], history[1:]), 1)
    rows, columns = np.nonzero(counts)
    scores = counts[rows, columns]
    for name, table_schema in (
        (table_names.transitions_name(experiment), schema.TRANSITIONS),
        (table_names.memory_name(experiment), schema.MEMORY),
    ):
        _write(experiment, name, table_schema, [rows, columns, scores], seed)


def _write_modality(
    experiment: Experiment,
    modality: str,
    has: np.ndarray[Any, Any],
    N_O: torch.Tensor,
    generator: np.random.Generator,
    seed: int,
) -> None:
    items = np.flatnonzero(has)
    vectors = generator.normal(size=(NUM_ITEMS, WIDTH)).astype(np.float32) * has[:, None]
    smoothed = plain.smoothed(torch.from_numpy(vectors).double(), N_O, experiment.mus(modality)[0])
    lists = plain.neighbors(smoothed, torch.from_numpy(has), experiment.graph.max_neighbors)
    kept = [lists[i] for i in items]
    centers = np.arange(len(items)) % experiment.model.num_centers
    for name, table_schema, columns in (
        (table_names.features_name(modality), schema.FEATURES, [items, vectors[items].tolist()]),
        (
            table_names.neighbors_name(experiment, modality),
            schema.NEIGHBORS,
            [items, kept, [[0.0] * len(n) for n in kept]],
        ),
        (table_names.centers_name(experiment, modality), schema.CENTERS, [items, centers]),
    ):
        _write(experiment, name, table_schema, columns, seed)


def _write(
    experiment: Experiment,
    name: str,
    table_schema: pa.Schema,
    columns: list[Any],
    seed: int,
    rows_per_file: int = 10**6,
) -> None:
    table = pa.table(
        [pa.array(c, type=f.type) for c, f in zip(columns, table_schema, strict=True)],
        schema=table_schema,
    )
    uri = tables.table_uri(experiment.root, name)
    version = Path(tables.new_version(uri))
    version.mkdir(parents=True)
    for number, start in enumerate(range(0, table.num_rows, rows_per_file)):
        part = table.slice(start, rows_per_file)
        pa.parquet.write_table(part, version / f"part-{number:05d}.parquet")
    tables.commit(
        uri,
        str(version),
        tables.Recipe(table_settings(experiment)[name], {"seed": str(seed)}),
        table.num_rows,
        {"width": WIDTH} if table_schema is schema.FEATURES else {},
        needed=partial(is_needed, experiment.root, name),
    )


def write_categories(root: str) -> None:
    """Write the table `categories` of a root: every third item is of Arts, the others of Music."""
    items = tables.open_table(tables.table_uri(root, "items"))
    numbers = np.arange(items.rows, dtype=np.int32)
    rows = pa.record_batch(
        [numbers, np.array(["Arts", "Music", "Music"])[numbers % 3]], schema=schema.CATEGORIES
    )
    recipe = tables.Recipe({}, {"items": items.fingerprint})
    of_arts = -(-items.rows // 3)
    counters = {"Arts": of_arts, "Music": items.rows - of_arts, "Food": 0}
    uri = tables.table_uri(root, table_names.CATEGORIES)
    tables.write_table(uri, [rows], schema.CATEGORIES, recipe, counters)
