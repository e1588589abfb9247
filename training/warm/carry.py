"""The weights of a trained run, carried to the tables of an experiment, in one file.

A row of an item follows its item id; a weight without rows of items follows its name. An item that
is new, or that the source never trained, gets the mean of its nearest trained neighbors
(near_rows.py), and without one its initial row. A weight that the source does not have is initial.

The rows are collected in files of the temporary folder, so the process holds some blocks of them.

X items of the target, Y of the source.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mdsrec import files, tables
from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.jobs import promises
from mdsrec.jobs.lease import check_leases
from training.checkpoints.carried_record import CarriedRecord
from training.checkpoints.stored_weights import StoredWeights
from training.checkpoints.tensor_file import write_checked
from training.data.disk_arrays import DiskArrays
from training.data.shared_arrays import Array
from training.data.table_checks import check_item_tables
from training.warm.fitting import check_fits
from training.warm.graphs import graph_experiment, open_graphs
from training.warm.initial_weights import InitialWeights
from training.warm.item_map import GONE, ItemMap, map_items
from training.warm.near_rows import Flags, add_near_rows
from training.warm.source import ItemIds, SourceRun

ROWS = 1 << 16  # initial rows that are drawn at a time


class ItemRows(NamedTuple):
    """The rows of all items, and where they are from."""

    weights: dict[str, Array]  # [X, ...] by name
    num_carried: int
    num_near: int  # from neighbors
    num_initial: int


def write_carried(source: SourceRun, experiment: Experiment, uri: str) -> CarriedRecord:
    """Write the weights of `source` for the tables of `experiment` to `uri`, atomically.

    InputError if a weight does not fit, or if the source is trained again meanwhile.
    """
    fingerprints, target = check_item_tables(experiment), ItemIds.of_root(experiment.root)
    initial, stored = InitialWeights(experiment, target.manifest.rows), source.weights.uri
    check_fits(source, initial)
    size = 4 * sum(map(math.prod, initial.shapes.values()))
    files.check_room(uri.rpartition("/")[0], size, "the carried weights")
    with promises.promised({stored: promises.identity(stored) or ""}):
        promises.check_file(stored)
        found = map_items(target, source.items)
        rows = collect_rows(source.weights, found, initial, DiskArrays())
        dense, num_carried = _dense(source.weights, initial)
        record = CarriedRecord(
            source=source.uri,
            source_weights=source.weights.fingerprint(),
            source_mark=source.weights.mark(),
            dataset=tables.fingerprint(fingerprints),
            tables=fingerprints,
            items_carried=rows.num_carried,
            items_from_neighbors=rows.num_near,
            items_initial=rows.num_initial,
            items_dropped=found.num_dropped,
            weights_carried=num_carried,
            weights_initial=sorted(initial.shapes.keys() - source.weights.shapes.keys()),
            weights_dropped=sorted(source.weights.shapes.keys() - initial.shapes.keys()),
        )
        promises.check_file(stored)
    of_items = {name: torch.from_numpy(array) for name, array in rows.weights.items()}
    weights, metadata = {**of_items, **dense}, record.metadata()
    check_leases()
    files.write_stream(uri, partial(write_checked, tensors=weights, metadata=metadata))
    return record


def collect_rows(
    weights: StoredWeights, found: ItemMap, initial: InitialWeights, disk: DiskArrays
) -> ItemRows:
    """Return the rows of all items in arrays on the disk."""
    rows_of = {
        name: disk.zeros(initial.shapes[name], np.float32)
        for name in sorted(initial.item_parameters)
    }
    stored = {name: rows for name, rows in rows_of.items() if name in weights.shapes}
    for name, rows in stored.items():
        _carry(weights, name, found.carried, rows, disk)
    carried = found.trained if stored else np.zeros_like(found.trained)
    near = np.zeros_like(carried)
    if stored and not carried.all():
        most = graph_experiment(initial.experiment).nearest_read
        near = add_near_rows(stored, carried, open_graphs(initial.experiment), most)
    missing = ~(carried | near)
    _draw(rows_of, missing, rows_of.keys() - stored.keys(), initial, disk)
    counts = [int(flags.sum()) if rows_of else 0 for flags in (carried, near, missing)]
    return ItemRows(rows_of, *counts)


def _carry(
    weights: StoredWeights, name: str, target_of: Ints, rows: Array, disk: DiskArrays
) -> None:
    """Copy the rows of a weight to the items that they belong to."""
    for numbers, part in disk.dropping(weights.blocks(name)):
        items = target_of[numbers.numpy()]
        kept = items != GONE
        rows[items[kept]] = part.numpy()[kept]


def _draw(
    rows_of: Mapping[str, Array],
    missing: Flags,
    whole: set[str],
    initial: InitialWeights,
    disk: DiskArrays,
) -> None:
    """Set the initial rows of the `missing` items, and of all items in the `whole` weights."""
    for first in range(0, len(missing), ROWS):
        is_missing = missing[first : first + ROWS]
        items = first + np.arange(len(is_missing))[is_missing | bool(whole)]
        if not len(items):
            continue
        for name, drawn in initial.rows(items).items():
            kept = np.full(len(items), True) if name in whole else missing[items]
            rows_of[name][items[kept]] = drawn.numpy()[kept]
        disk.drop_pages()


def _dense(weights: StoredWeights, initial: InitialWeights) -> tuple[dict[str, Tensor], int]:
    """Return the weights without rows of items, and how many of them are the source's."""
    names = sorted(initial.shapes.keys() - initial.item_parameters)
    stored = {name: weights.tensor(name).float() for name in names if name in weights.shapes}
    others = {name: initial.dense(name) for name in names if name not in stored}
    return {**stored, **others}, len(stored)
