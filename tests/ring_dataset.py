"""A made data set of any size: items on a ring, where only near items are related.

So the share of a rank has a few neighbors elsewhere, whatever the number of items.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mdsrec import schema, table_names, tables
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.table_settings import table_settings

NEAR = 5  # items on each side
NUM_USERS, LENGTH = 1000, 8
BATCH = 1 << 16
WIDTH = 2  # of the vectors, which a training with an item graph does not read


def ring_experiment(root: Path, num_items: int, **sections: dict[str, Any]) -> Experiment:
    """Return an experiment with one modality on a ring of so many items."""
    content: dict[str, Any] = {
        "name": f"ring-{num_items}",
        "root": str(root / str(num_items)),
        "input": {"edition": "2018", "reviews": ["reviews.json"]},
        "features": {"text": {"vectors": "text.parquet"}},
        "graph": {"max_neighbors": 2 * NEAR},
        "model": {
            "dim": 64,
            "num_layers": 1,
            "num_neighbors": 2 * NEAR,
            "num_centers": 8,
            "max_length": LENGTH,
            "memory": False,
        },
        "train": {"batch_size": 64, "max_epochs": 1},
        "eval": {"num_workers": 1},
    }
    for section, values in sections.items():
        content[section] = {**content[section], **values}
    return experiment_from(content, source="test")


def write_ring(experiment: Experiment, num_items: int) -> None:
    """Write the tables that a training of MDSRec reads."""
    item = np.arange(num_items, dtype=np.int32)
    near = np.array([*range(-NEAR, 0), *range(1, NEAR + 1)])
    neighbors = (item[:, None] + near) % num_items
    ends = np.arange(0, neighbors.size + 1, neighbors.shape[1])
    lists = pa.ListArray.from_arrays(ends.astype(np.int32), neighbors.ravel().astype(np.int32))
    scores = pa.ListArray.from_arrays(ends.astype(np.int32), np.zeros(neighbors.size, np.float32))
    centers = item.astype(np.int64) * experiment.model.all_num_centers()[0] // num_items
    vectors = pa.FixedSizeListArray.from_arrays(np.ones(num_items * WIDTH, np.float32), WIDTH)
    ids = [f"B{i}" for i in item]
    none = pa.nulls(num_items, pa.string())
    events = np.random.default_rng(0).integers(0, num_items, (NUM_USERS, LENGTH))
    users, times = np.arange(NUM_USERS), [list(range(LENGTH))] * NUM_USERS
    ones = np.ones(NUM_USERS)
    content = {
        table_names.features_name("text"): (schema.FEATURES, [item, vectors]),
        "items": (schema.ITEMS, [item, ids, none, none, none, np.ones(num_items)]),
        "sequences": (
            schema.SEQUENCES,
            [users, users.astype(str), events.tolist(), times, 6 * ones, 7 * ones],
        ),
        table_names.cooccurrence_name(experiment): (
            schema.COOCCURRENCE,
            [item.repeat(len(near)), np.sort(neighbors).ravel(), np.ones(neighbors.size)],
        ),
        table_names.neighbors_name(experiment, "text"): (schema.NEIGHBORS, [item, lists, scores]),
        table_names.centers_name(experiment, "text"): (schema.CENTERS, [item, centers]),
    }
    for name, (table_schema, columns) in content.items():
        arrays = [pa.array(c) if not isinstance(c, pa.Array) else c for c in columns]
        cast = [a.cast(f.type) for a, f in zip(arrays, table_schema, strict=True)]
        batches = pa.table(cast, schema=table_schema).to_batches(max_chunksize=BATCH)
        recipe = tables.Recipe(table_settings(experiment)[name], {})
        uri, counters = tables.table_uri(experiment.root, name), {"width": WIDTH}
        tables.write_table(uri, batches, table_schema, recipe, counters)
