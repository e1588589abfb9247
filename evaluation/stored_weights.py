"""The channels' weights of a run with a memory, as the evaluation stored them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from mdsrec.tables import Recipe
from training.inference import SEEN, TrainedModel
from training.trained_run import Trained, TrainedRun

AnyTrained = TypeVar("AnyTrained", TrainedModel, TrainedRun)

MAX_USERS = 20_000  # a mean over so many targets has a standard error of about .002
PER_CHANNEL = 200  # rivals of a target: items that a channel ranks highest


@dataclass(frozen=True)
class ChosenWeights:
    """weights.json of a run."""

    rivals: str  # fingerprint of the table that they were chosen on
    targets: int
    weights: Mapping[str, float]  # by channel
    ndcg: Mapping[str, float]  # on these targets: of the network, of the memory, and of both


def model_inputs(trained: Trained) -> dict[str, str]:
    """Return the fingerprints of all that decides a score, except the channels' weights."""
    inputs = {"tables": trained.dataset_fingerprint, "weights": trained.weights_fingerprint}
    memory = trained.memory_fingerprint
    return inputs if memory is None else {**inputs, "memory": memory}


def weights_in_recipe(trained: Trained) -> dict[str, Any]:
    """Return the channels' weights as settings of a table; {} if they are the model's own."""
    return {"channel_weights": dict(trained.weight_of)} if trained.memory_fingerprint else {}


def rivals_recipe(experiment: Experiment, trained: Trained) -> Recipe:
    """Return all that decides the table on which the weights are chosen.

    Of many users only every n-th is scored, so that there are at most MAX_USERS.
    """
    num_users = tables.open_table(tables.table_uri(experiment.root, "sequences")).rows
    every = -(-num_users // MAX_USERS)
    settings = {"run": experiment.identity(), "every": every, "rivals": PER_CHANNEL}
    return Recipe(settings, model_inputs(trained))


def with_stored_weights(experiment: Experiment, trained: AnyTrained) -> AnyTrained:
    """Return the model with the weights that the evaluation chose, where it has a memory.

    InputError if there are none for this model and these tables.
    """
    if SEEN not in trained.weight_of:
        return trained
    paths = RunPaths.of(experiment)
    stored = files.read_json(paths.weights)
    if stored.get("rivals") != rivals_recipe(experiment, trained).fingerprint:
        raise InputError(
            f"{paths.uri}: no weights of the channels for this model: "
            "run `mdsrec evaluate CONFIG`, which chooses them"
        )
    return replace(trained, weight_of=stored["weights"])
