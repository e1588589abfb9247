"""The best weights in parts: `best.safetensors`, and the rows of items of each rank beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import on_ranks
from sharded_steps import Job, engine_of, take_steps
from small_dataset import small_experiment, write_dataset
from torch import distributed

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.run_paths import RunPaths
from training.checkpoints.saver import Saver
from training.checkpoints.stored_weights import StoredWeights
from training.checkpoints.weights import gather_weights
from training.data.item_tables import load_item_tables
from training.data.table_checks import check_item_tables
from training.distributed.control import ControlGroup
from training.inference import load_trained, model_with, weights_fingerprint
from training.lifecycle.identity import claim

FORMS = {"replicated": {"sharded": False}, "sharded": {}, "placed": {"placed": True}}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Experiment]:
    """Return a run for each form, on one data set."""
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return {form: small_experiment(root).model_copy(update={"name": form}) for form in FORMS}


def write_weights(resolved: dict[str, Any]) -> list[Any]:
    """Write, on this rank, the weights of every form at its start, then again after a step.

    Returns what the storage holds in between, on rank 0.
    """
    seen: dict[str, Any] = {}
    for form, keys in FORMS.items():
        experiment = experiment_from(resolved[form], source="test")
        engine = engine_of(experiment, Job(resolved[form], precise=False, **keys))
        run = RunPaths.of(experiment).uri
        saver = Saver(run, ControlGroup(5))
        metadata = {"dataset": load_item_tables(experiment).fingerprint}
        saver.add_weights(gather_weights(engine, metadata, "first"))
        assert saver.save(engine, "00000-000001", {})
        take_steps(engine, experiment, 0, 1)
        saver.add_weights(gather_weights(engine, metadata, "second"))
        if form == "sharded":
            seen["failed"] = save_while_a_rank_cannot_write(saver, engine, run)
        assert saver.save(engine, "00000-000003", {})
    return [seen]
