"""Runs with random weights on the small data set, as if they had been trained."""

from safetensors.torch import save

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from training.data.item_tables import load_item_tables
from training.models.registry import build_model

# 61 users in shards of 32 and 29. The last batch has one user.
TWO_USERS = {"user_batch": 2, "item_block": 16}
FIGURES = {"epoch": 0, "loss": 3.25, "ndcg@10": 0.125, "recall@10": 0.25, "seconds": 61.0}


def write_weights(experiment: Experiment, seed: int) -> None:
    """Write the files that a training leaves, with the initial weights."""
    item_tables = load_item_tables(experiment)
    model = build_model(experiment, item_tables)
    model.initialize(seed)
    weights = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    fingerprint = item_tables.fingerprint
    paths = RunPaths.of(experiment)
    files.write_bytes(paths.best_weights, save(weights, {"dataset": fingerprint}))
    history = {"epochs": [FIGURES], "best_epoch": 0, "num_parameters": 4321}
    files.write_json(paths.history, history)
    files.write_json(paths.config, experiment.resolved())


def run_of(experiment: Experiment) -> str:
    return RunPaths.of(experiment).uri
