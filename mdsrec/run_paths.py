"""The files of a run, under `<root>/runs/NAME/`."""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any, Self

from pyarrow import fs

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.files import damaged_json, exists, file_system, read_json
from mdsrec.jobs.promises import former_manifest, identity
from mdsrec.table_settings import run_tables, stored_fingerprints
from mdsrec.tables import table_uri

log = logging.getLogger("mdsrec")

STARTED_FROM = "started_from"  # in history.json: the record of `train.init_from`


class RunPaths:
    """URIs of everything that a run reads and writes; `uri` is the folder of the run."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.config = f"{uri}/config.json"  # the resolved configuration
        self.dataset = f"{uri}/dataset.json"  # fingerprints of the tables it reads, by name
        self.history = f"{uri}/history.json"  # metrics of every epoch
        self.best_weights = f"{uri}/best.safetensors"  # of the epoch with the best validation
        self.appended = f"{uri}/appended.json"  # fingerprints of the tables of `appended_weights`
        self.appended_weights = f"{uri}/appended.safetensors"  # with rows of items that came later
        self.initial = f"{uri}/initial.json"  # what the training started from, if from a run
        self.initial_weights = f"{uri}/initial.safetensors"  # deleted when the run is finished
        self.checkpoints = f"{uri}/checkpoints"  # folder; the newest two
        self.events = f"{uri}/events"  # folder; learning curves for TensorBoard
        self.stop = f"{uri}/stop"  # this file asks the training to save and stop
        self.lease = f"{uri}.writer"  # heartbeat of the driver that trains the run
        self.evaluation_lease = f"{uri}.evaluation"  # heartbeat of the job that evaluates the run
        self.rivals = f"{uri}/rivals"  # table; weights of the channels are chosen on it
        self.weights = f"{uri}/weights.json"  # the chosen weights of the channels
        self.ranks = f"{uri}/ranks"  # table
        self.metrics = f"{uri}/metrics.json"
        self.cases = f"{uri}/cases.json"  # users of the case study
        self.report = f"{uri}/report.html"
        self.histories = f"{uri}/histories"  # table; users of `recommend --histories`
        self.recommendations = f"{uri}/recommendations"  # table
        self.user_vectors = f"{uri}/vectors/users"  # table
        self.item_vectors = f"{uri}/vectors/items"  # table
        self.memory_terms = f"{uri}/vectors/memory"  # table, of a run with a memory

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Return the paths of the experiment's own run."""
        return cls.named(experiment, experiment.name)

    @classmethod
    def named(cls, experiment: Experiment, name: str) -> Self:
        """Return the paths of the run of this name below the experiment's root."""
        return cls(f"{experiment.root}/runs/{name}")

    def read_history(self) -> dict[str, Any]:
        """Return history.json, {} if there is none. InputError if it was torn or edited."""
        found = read_json(self.history)
        if not _is_history(found) and (found or exists(self.history)):
            raise damaged_json(self.history, "not the epochs of a run")
        return found


def stored_experiment(folder: str) -> Experiment | None:
    """Return the configuration of the run in a folder ROOT/runs/NAME, with this root and name.

    None if it is not the folder of a run. Root and run may have been moved together.
    """
    root, _, name = folder.rpartition("/runs/")
    uri = RunPaths(folder).config
    config = read_json(uri) if root else {}
    return experiment_from({**config, "root": root, "name": name}, uri) if config else None


def _is_history(found: Mapping[str, Any]) -> bool:
    """Return whether an object has the epochs of a run, with numbers, and the best one of them."""
    epochs, best = found.get("epochs"), found.get("best_epoch")
    if not (isinstance(epochs, list) and type(best) is int and -1 <= best < len(epochs)):
        return False
    return type(found.get("num_parameters")) is int and all(
        isinstance(epoch, dict)
        and {"ndcg@10", "recall@10"} <= epoch.keys()
        and all(isinstance(value, int | float) for value in epoch.values())
        for epoch in epochs
    )


def run_fingerprints(experiment: Experiment) -> dict[str, str]:
    """Return the fingerprints of the tables and the weights that the run reads, by URI.

    A table that was replaced since the training, and kept, has that of the training.
    """
    paths, found = RunPaths.of(experiment), stored_fingerprints(experiment)
    names = {name for name in run_tables(experiment) if table_uri(experiment.root, name) in found}
    if _listed(paths.uri).keys() >= names:  # runs of older versions list only some
        found |= former_tables(paths.uri)
    return found | weights_fingerprints(experiment)


def weights_fingerprints(experiment: Experiment) -> dict[str, str]:
    """Return the fingerprints of the weights of the run, trained and appended ones, by URI."""
    paths = RunPaths.of(experiment)
    found = {uri: identity(uri) for uri in (paths.best_weights, paths.appended_weights)}
    return {uri: each for uri, each in found.items() if each is not None}


def former_tables(uri: str) -> dict[str, str]:
    """Return the fingerprints of the tables of a run that were replaced since its training, by URI.

    {} if one of them was not kept: the others are of no use without it.
    """
    root = uri.rsplit("/", 2)[0]
    listed = {table_uri(root, name): text for name, text in _listed(uri).items()}
    former = {table: text for table, text in listed.items() if identity(table) != text}
    if not all(exists(former_manifest(table, text)) for table, text in former.items()):
        return {}
    if former:
        _say_former(uri)
    return former


@cache
def _say_former(uri: str) -> None:
    """Log once in a process that a run does not read the current tables."""
    log.info("run %s: its tables were replaced since; it reads those that its weights are for", uri)


def _listed(uri: str) -> dict[str, str]:
    """Return the fingerprints of the tables that the weights in use were made for, by name."""
    paths = RunPaths(uri)
    return read_json(paths.appended if exists(paths.appended_weights) else paths.dataset)


def check_has_weights(experiment: Experiment) -> None:
    """Raise InputError if the run was never trained. It imports no torch, so it answers at once."""
    paths = RunPaths.of(experiment)
    file = paths.best_weights if experiment.model.is_trained else paths.history
    filesystem, path = file_system(file)
    if filesystem.get_file_info(path).type != fs.FileType.File:
        raise no_weights_error(paths)


def no_weights_error(paths: RunPaths) -> InputError:
    return InputError(f"{paths.uri}: no trained weights: run `mdsrec train CONFIG` first")
