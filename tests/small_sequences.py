"""A small SASRec, and sequences given as literals, for comparisons with other libraries."""

import pyarrow as pa
from small_dataset import small_experiment

from mdsrec import schema, tables
from mdsrec.config.loading import experiment_from


def sasrec(root, **sections):
    """Return a SASRec with the sizes of `small_experiment`."""
    content = small_experiment(root, **sections).model_dump()
    sizes = {key: content["model"][key] for key in ("dim", "inner_dim", "max_length", "dropout")}
    return experiment_from({**content, "model": {"name": "sasrec", **sizes}}, "test")


def write_sequences(experiment, users, num_items):
    """Write the tables of users given as (items, train_end, valid_end)."""
    items, train_end, valid_end = zip(*users, strict=True)
    columns = [
        range(len(users)),
        [f"U{user}" for user in range(len(users))],
        items,
        [range(len(of_user)) for of_user in items],
        train_end,
        valid_end,
    ]
    item_columns = [range(num_items), *[["x"] * num_items] * 4, [1] * num_items]
    for name, table, values in (
        ("sequences", schema.SEQUENCES, columns),
        ("items", schema.ITEMS, item_columns),
    ):
        arrays = [pa.array(list(v), f.type) for v, f in zip(values, table, strict=True)]
        uri = tables.table_uri(experiment.root, name)
        batches = [pa.RecordBatch.from_arrays(arrays, schema=table)]
        tables.write_table(uri, batches, table, tables.Recipe({}, {}))
