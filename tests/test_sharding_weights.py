"""The best weights in parts: `best.safetensors`, and the rows of items of each rank beside it."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
from training.inference import load_trained, weights_fingerprint
from training.lifecycle.identity import claim
from training.models.registry import build_model

FORMS: dict[str, dict[str, Any]] = {
    "replicated": {"sharded": False},
    "sharded": {},
    "placed": {"placed": True},
}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Experiment]:
    """Return a run for each form, on one data set."""
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return {form: small_experiment(root).model_copy(update={"name": form}) for form in FORMS}


def write_weights(resolved: dict[str, Any]) -> dict[str, Any]:
    """Write, on this rank, the weights of every form three times, with a step in between.

    The second ones of `sharded` cannot be written at first: rank 1 has no room. Returns the stored
    weights after that by form, and the fingerprint of those that lie there meanwhile.
    """
    seen: dict[str, Any] = {}
    for form, keys in FORMS.items():
        experiment = experiment_from(resolved[form], source="test")
        engine = engine_of(experiment, Job(resolved[form], precise=False, **keys))
        paths = RunPaths.of(experiment)
        saver = Saver(paths.uri, ControlGroup(5))
        metadata = {"dataset": load_item_tables(experiment).fingerprint}
        saver.add_weights(gather_weights(engine, metadata, "first"))
        assert saver.save(engine, "00000-000001", {})
        take_steps(engine, experiment, 0, 1)
        saver.add_weights(gather_weights(engine, metadata, "second"))
        if form == "sharded":
            with no_room_on_rank_1():
                assert not saver.save(engine, "00000-000002", {})
            seen["meanwhile"] = StoredWeights(paths.best_weights).fingerprint()
            distributed.barrier()
            take_steps(engine, experiment, 1, 2)  # changes the rows that wait to be written
            assert saver.save(engine, "00000-000003", {})
        else:
            assert saver.save(engine, "00000-000003", {})
            take_steps(engine, experiment, 1, 2)
        seen[form] = StoredWeights(paths.best_weights).tensors()
        distributed.barrier()
        saver.add_weights(gather_weights(engine, metadata, "third"))
        assert saver.save(engine, "00000-000004", {})
    return seen


@contextmanager
def no_room_on_rank_1() -> Iterator[None]:
    write = files.write_stream

    def fail(uri: str, *arguments: Any) -> None:
        if "best-" in uri and distributed.get_rank() == 1:
            raise OSError(errno.ENOSPC, "no space left")
        write(uri, *arguments)

    files.write_stream = fail
    try:
        yield
    finally:
        files.write_stream = write


@pytest.fixture(scope="module")
def seen(experiments: dict[str, Experiment]) -> dict[str, Any]:
    for experiment in experiments.values():
        claim(experiment, check_item_tables(experiment))
    first, *_ = on_ranks(3, write_weights, {f: e.resolved() for f, e in experiments.items()})
    return dict(first)


def parts_of(experiment: Experiment) -> set[str]:
    run = Path(RunPaths.of(experiment).uri)
    return {path.name for path in run.glob("best-*.safetensors")}


def names_of(tag: str) -> set[str]:
    return {f"best-{tag}-{rank:05d}-of-00003.safetensors" for rank in range(3)}


@pytest.mark.parametrize("form", ["sharded", "placed"])
def test_weights_in_parts_are_those_of_one_file(
    seen: dict[str, Any], experiments: dict[str, Experiment], form: str
) -> None:
    whole, parts = (load_trained(experiments[f]).model for f in ("replicated", form))
    assert whole is not None and parts is not None
    weights = dict(whole.named_parameters()), dict(parts.named_parameters())
    for one, other in (weights, (seen["replicated"], seen[form])):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(other[name], one[name], atol=1e-6, rtol=0)


def test_the_fingerprint_of_parts_is_that_of_the_model(
    seen: dict[str, Any], experiments: dict[str, Experiment]
) -> None:
    stored = StoredWeights(RunPaths.of(experiments["sharded"]).best_weights)
    assert stored.fingerprint() == weights_fingerprint(load_trained(experiments["sharded"]).model)


def test_a_part_that_cannot_be_written_leaves_the_former_weights(
    seen: dict[str, Any], experiments: dict[str, Experiment]
) -> None:
    """They are the initial ones, which do not depend on the number of ranks."""
    experiment = experiments["sharded"]
    model = build_model(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    assert seen["meanwhile"] == weights_fingerprint(model)


def test_parts_of_the_weights_before_the_former_ones_are_deleted(
    seen: dict[str, Any], experiments: dict[str, Experiment]
) -> None:
    """Somebody may still read the former ones."""
    for form in ("sharded", "placed"):
        assert parts_of(experiments[form]) == names_of("second") | names_of("third")
    assert not parts_of(experiments["replicated"])


def write_whole(resolved: dict[str, Any]) -> None:
    """Write weights twice on one rank that holds all items."""
    experiment = experiment_from(resolved, source="test")
    engine = engine_of(experiment, Job(resolved, sharded=False, precise=False))
    saver = Saver(RunPaths.of(experiment).uri, ControlGroup(5))
    for tag, checkpoint in (("fourth", "00000-000005"), ("fifth", "00000-000006")):
        saver.add_weights(gather_weights(engine, {}, tag))
        assert saver.save(engine, checkpoint, {})


def test_a_training_that_holds_all_items_later_leaves_no_parts(
    seen: dict[str, Any], experiments: dict[str, Experiment]
) -> None:
    experiment = experiments["placed"].model_copy(update={"name": "later"})
    shutil.copytree(RunPaths.of(experiments["placed"]).uri, RunPaths.of(experiment).uri)
    assert parts_of(experiment)
    on_ranks(1, write_whole, experiment.resolved())
    assert not parts_of(experiment)
    weights = StoredWeights(RunPaths.of(experiment).best_weights).tensors()
    assert weights["item_embedding"].shape == (40, 8)
