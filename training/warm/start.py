"""The start of a training from the weights of another run: `train.init_from`.

The driver writes them to `initial.safetensors` of the run, once, and the ranks load them before the
first step. A training that has a checkpoint does not look at them.
"""

import logging
import math
from dataclasses import asdict

import numpy as np

from mdsrec import files
from mdsrec.arrays import Ints
from mdsrec.command.heartbeat import heartbeat
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.checkpoints.carried_record import DATASET, CarriedRecord
from training.checkpoints.manifest import is_complete
from training.checkpoints.owned_rows import OwnedRows
from training.checkpoints.store import checkpoint_names
from training.checkpoints.stored_weights import StoredWeights
from training.checkpoints.tensor_file import TensorFile
from training.distributed.engine_protocol import Engine
from training.distributed.zero_state import full_shapes, held_state, own_range, set_held_state
from training.models.base import Model
from training.warm.carry import write_carried
from training.warm.source import SourceRun

WEIGHT = "weight"  # kind of state

log = logging.getLogger("training")


def prepare_start(experiment: Experiment) -> None:
    """Write the weights that a training starts from, unless it has a checkpoint or has them.

    InputError if they do not fit, or if the source was trained again since they were first written.
    """
    paths, source = RunPaths.of(experiment), experiment.train.init_from
    names = checkpoint_names(paths.checkpoints)
    if source is None or any(is_complete(f"{paths.checkpoints}/{name}") for name in names):
        return
    heartbeat.begin("carrying the weights that the training starts from")
    if files.exists(paths.initial_weights):
        stored = StoredWeights(paths.initial_weights)
        record = CarriedRecord.of(stored.metadata, stored.uri)
    else:
        run = SourceRun.open(source if "/" in source else RunPaths.named(experiment, source).uri)
        _check_source(paths, run)
        record = write_carried(run, experiment, paths.initial_weights)
    files.write_json(paths.initial, asdict(record))
    log.info("starts from %s (weights %s)", record.source, record.source_weights)
    log.info("%s; %s", record.items_text, record.weights_text)


def _check_source(paths: RunPaths, run: SourceRun) -> None:
    """Raise InputError if the run was begun with other weights of the source."""
    before = files.read_json(paths.initial).get("source_weights")
    if before and (found := run.weights.fingerprint()) != before:
        raise InputError(
            f"{paths.uri}: began with the weights {before} of {run.uri}, which has {found} now, as "
            "it was trained again: choose another name, or start again with --fresh"
        )


def check_start(uri: str, dataset: str) -> None:
    """Raise InputError unless the file has weights for the data set with this fingerprint."""
    found = StoredWeights(uri).metadata.get(DATASET)
    if found != dataset:
        raise InputError(
            f"{uri}: for data set {found}, but this one is {dataset}: delete the file, and run the "
            "command again"
        )


def load_start(engine: Engine[Model], uri: str) -> None:
    """Set the weights of an engine to those of a file. Collective.

    Where ranks own items, each reads rows of its own, or a part that it sends to their owners.
    """
    stored, owners = StoredWeights(uri), engine.module.owners
    owned = None if owners is None else OwnedRows(_Flat(TensorFile.open(uri)), owners)
    for name, shape in full_shapes(engine).items():
        if owned is not None and own_range(engine, name, math.prod(shape)) is not None:
            owned.read(name, held_state(engine, name, WEIGHT))  # in place
        else:
            set_held_state(engine, name, WEIGHT, stored.tensor(name).flatten())


class _Flat:
    """The tensors of a file as flat ones, whose rows are in the order of items."""

    has_items = False

    def __init__(self, file: TensorFile) -> None:
        self.elements = file.elements
        self.sizes = {name: math.prod(file.shape(name)) for name in file.tensors}

    def has_order(self, key: str) -> bool:
        return False

    def items_between(self, first: int, last: int) -> Ints:
        return np.arange(first, last)
