"""Synthetic item vectors, clustered like those of a catalogue, and the tables that hold them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from etl.recipes import raw_inputs, recipes
from etl.spark.part_files import write_part_file
from etl.spark.vector_table import vector_rows
from mdsrec import schema, tables
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from

Vectors = npt.NDArray[np.float32]

TOPICS, GROUPS, RANK = 50, 2000, 24
NOISE = 0.02  # standard deviation, added to each coordinate of a vector of length 1
BLOCK = 1 << 15
MODALITY = "text"


def synthetic_vectors(num_items: int, width: int) -> Iterator[Vectors]:
    """Draw groups of very unequal size around topics.

    Vectors of a group differ mostly in RANK directions.
    """
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(TOPICS, width))
    groups = topics[rng.integers(TOPICS, size=GROUPS)] + 0.8 * rng.normal(size=(GROUPS, width))
    weight = (1.0 + np.arange(GROUPS)) ** -0.5
    directions = rng.normal(size=(RANK, width)) / np.sqrt(RANK)
    for first in range(0, num_items, BLOCK):
        n = min(BLOCK, num_items - first)
        group = rng.choice(GROUPS, size=n, p=weight / weight.sum())
        inside = 0.9 * rng.normal(size=(n, RANK)) @ directions
        yield (groups[group] + inside + 0.3 * rng.normal(size=(n, width))).astype(np.float32)


def repeated_vectors(source: Path, num_items: int) -> Iterator[Vectors]:
    """Repeat the vectors in the Parquet files of a folder, each time with other noise."""
    column = pq.read_table(sorted(source.rglob("*.parquet")), columns=["vector"]).column("vector")
    base = np.stack(column.to_numpy()).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    for first in range(0, num_items, BLOCK):
        rows = base[np.arange(first, min(first + BLOCK, num_items)) % len(base)]
        yield (rows + NOISE * rng.normal(size=rows.shape)).astype(np.float32)


def experiment_of(folder: Path, **sections: dict[str, Any]) -> Experiment:
    """Return an experiment of one modality under `folder`."""
    content: dict[str, Any] = {
        "name": "benchmark",
        "root": str(folder / "root"),
        "input": {"edition": "2018", "reviews": [str(folder / "reviews.json")]},
        "features": {MODALITY: {"vectors": str(folder / "vectors.parquet")}},
        "model": {"mu": {MODALITY: 0.0}},
    }
    return experiment_from(content | sections, "benchmark")


def write_tables(folder: Path, blocks: Iterator[Vectors]) -> int:
    """Write the items table and the features as the ETL does; return the number of items."""
    folder.mkdir(exist_ok=True)
    for name in ("reviews.json", "vectors.parquet"):
        (folder / name).touch()
    experiment = experiment_of(folder)
    recipe_of = recipes(experiment, raw_inputs(experiment))
    uri = tables.table_uri(experiment.root, f"features/{MODALITY}")
    version, num_items, width = tables.new_version(uri), 0, 0
    for number, vectors in enumerate(blocks):
        items = np.arange(num_items, num_items + len(vectors))
        write_part_file(version, f"part-{number:05d}", vector_rows(items, vectors))
        num_items, width = num_items + len(vectors), vectors.shape[1]
    recipe = recipe_of[f"features/{MODALITY}"]
    tables.commit(uri, version, recipe, num_items, {"width": width})
    ids = [f"B{item:09d}" for item in range(num_items)]
    known = pa.table({"item": pa.array(range(num_items), pa.int32()), "item_id": ids})
    empty = [pa.nulls(num_items, field.type) for field in list(schema.ITEMS)[2:]]
    rows = pa.Table.from_arrays([*known.columns, *empty], schema=schema.ITEMS)
    uri = tables.table_uri(experiment.root, "items")
    tables.write_table(uri, rows.to_batches(), schema.ITEMS, recipe_of["items"])
    return num_items
