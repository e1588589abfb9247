"""The arrays of an export: weights, item tables and memory, written to the disk and from there.

A process holds one batch of rows at a time, and a few numbers an item.
"""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import torch
from torch import Tensor

from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.jobs.promises import check_file
from mdsrec.run_paths import RunPaths
from training.checkpoints.finite_weights import damaged_rows, refuse_damaged
from training.checkpoints.stored_weights import StoredWeights
from training.checkpoints.tensor_file import write_arrays
from training.checkpoints.weights_in_use import weights_in_use
from training.data.disk_arrays import DiskArrays
from training.data.item_tables import PARTS, Loading
from training.data.shared_arrays import Array
from training.data.sparse import SparseMatrix
from training.inference import check_dataset, item_parameters
from training.memory import Memory
from training.trained_run import TrainedRun


def write_weights(experiment: Experiment, trained: TrainedRun, stream: BinaryIO) -> None:
    """Write the weights of the network, rows in the order of items.

    InputError if a weight is not finite, or if other weights were stored meanwhile.
    """
    stored, disk = weights_in_use(RunPaths.of(experiment)), DiskArrays()
    uri = stored.uri
    weights = {name: _stored_rows(stored, name, disk) for name in stored.shapes}
    check_file(uri)
    of_items = item_parameters(experiment)
    for name, (_, damaged) in weights.items():
        refuse_damaged(uri, name, damaged, len(damaged), name in of_items)
    arrays = {name: rows for name, (rows, _) in weights.items()}
    write_arrays(stream, arrays, {"dataset": trained.dataset_fingerprint}, disk.drop_pages)


def _stored_rows(stored: StoredWeights, name: str, disk: DiskArrays) -> tuple[Array, Tensor]:
    """Read a weight, block by block -> its rows, and the numbers of those that are not finite."""
    like = torch.empty(0, dtype=stored.dtype(name)).numpy()
    weight = disk.zeros(stored.shapes[name], like.dtype)
    damaged = [torch.empty(0, dtype=torch.int64)]
    for numbers, rows in disk.dropping(stored.blocks(name)):
        weight[numbers.numpy()] = rows.numpy()
        damaged.append(numbers[damaged_rows(rows)])
    return weight, torch.cat(damaged).sort().values


def write_item_tables(experiment: Experiment, trained: TrainedRun, stream: BinaryIO) -> None:
    """Write the tables that the network reads. Products of them are made again by who loads."""
    disk = DiskArrays()
    item_tables = _DiskLoading(experiment, disk).item_tables()
    check_dataset(experiment, trained.dataset_fingerprint, item_tables.fingerprint)
    about = {"about": json.dumps(item_tables.about())}
    write_arrays(stream, item_tables.arrays(), about, disk.drop_pages)


class _DiskLoading(Loading):
    """Tables that are read into arrays on the disk, without products of them."""

    def __init__(self, experiment: Experiment, disk: DiskArrays) -> None:
        super().__init__(experiment, disk.zeros)
        self._disk = disk

    def rows(self, *table: Any) -> Iterator[pa.RecordBatch]:
        return self._disk.dropping(super().rows(*table))

    def center_rows(self, members: SparseMatrix, graph: SparseMatrix) -> None:
        return None


def write_memory(experiment: Experiment, trained: TrainedRun, stream: BinaryIO) -> None:
    """Write the terms of the memory of transitions."""
    disk = DiskArrays()

    def rows(*table: Any) -> Iterator[pa.RecordBatch]:
        return disk.dropping(tables.stream_table(*table))

    memory = Memory.load(experiment, disk.zeros, rows)
    arrays = {part: getattr(memory.terms, part) for part in PARTS}
    about = {"about": json.dumps({"fingerprint": memory.fingerprint})}
    write_arrays(stream, arrays, about, disk.drop_pages)
