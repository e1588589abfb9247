"""The split of an experiment as one NumPy file, from which each peer builds its own input."""

from pathlib import Path

import numpy as np

from mdsrec import schema, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError


def write_split(experiment: Experiment, path: Path) -> None:
    """Write all sequences to `path`, an .npz file.

    InputError if the split is not leave-one-out: the peers make one list a user.
    """
    if experiment.sequences.split != "leave_one_out":
        raise InputError(
            f"sequences.split = {experiment.sequences.split}: the peers rank one event a user, so "
            "use leave_one_out"
        )
    uri = tables.table_uri(experiment.root, "sequences")
    columns = ["items", "train_end", "valid_end"]
    rows = tables.read_table(uri, schema.SEQUENCES, columns)
    items = rows["items"].combine_chunks()
    starts = np.concatenate([[0], np.cumsum(items.value_lengths().to_numpy())])
    np.savez(
        path,
        items=items.flatten().to_numpy().astype(np.int64),
        starts=starts,
        train_end=rows["train_end"].to_numpy(),
        valid_end=rows["valid_end"].to_numpy(),
        num_items=tables.open_table(tables.table_uri(experiment.root, "items")).rows,
    )
