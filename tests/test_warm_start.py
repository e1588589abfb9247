"""A training that starts from the weights of another run: `train.init_from`."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from catalogues import write_run
from gloo import on_ranks
from half_written import run_until_killed
from random_runs import FIGURES
from sharded_steps import Job, engine_of, joined, state_of, take_steps
from small_dataset import small_experiment, write_dataset
from small_models import experiment_of

from evaluation.report.head import start_facts
from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.checkpoints.saver import Saver
from training.checkpoints.stored_weights import StoredWeights
from training.checkpoints.weights import gather_weights
from training.distributed.control import CollectiveInputError, ControlGroup
from training.loop import train
from training.reporting import Reporter
from training.run import FitResult, fit
from training.warm.start import load_start, prepare_start

CPU = torch.device("cpu")


class Form(NamedTuple):
    """How the ranks hold the weights."""

    sharded: bool = False
    placed: bool = False  # in another order than that of items
    zero_stage: int = 0


FORMS = [Form(), Form(True), Form(True, True), *(Form(zero_stage=stage) for stage in (1, 2, 3))]


@pytest.fixture
def source(tmp_path: Path) -> Experiment:
    """Return the experiment of a finished run on the small data set."""
    experiment = experiment_of(tmp_path, "mdsrec").model_copy(update={"name": "before"})
    write_dataset(small_experiment(tmp_path))
    write_run(experiment, scale=0.1)
    return experiment


def warm(source: Experiment, init_from: str = "before", **sections: dict[str, Any]) -> Experiment:
    """Return an experiment that starts from the run `before` of the same root."""
    train = {"init_from": init_from, **sections.pop("train", {})}
    return experiment_of(Path(source.root), source.model.name, train=train, **sections)


def after_loading(resolved: dict[str, Any], forms: list[Form]) -> list[Any]:
    """Return the state of a rank before and after three steps, with their losses, in each form."""
    found = []
    for form in forms:
        train = {**resolved["train"], "zero_stage": form.zero_stage}
        experiment = experiment_from({**resolved, "train": train}, source="test")
        job = Job(experiment.resolved(), form.sharded, precise=False, placed=form.placed)
        engine = engine_of(experiment, job)
        load_start(engine, RunPaths.of(experiment).initial_weights)
        start = state_of(engine)
        losses = take_steps(engine, experiment, 0, 3)
        found.append([{**start, "losses": losses}, {**state_of(engine), "losses": losses}])
    return found


def states(experiment: Experiment, ranks: int, forms: list[Form]) -> list[Any]:
    """Return the states before and after three steps, of all ranks together, in each form."""
    of_ranks = on_ranks(ranks, after_loading, experiment.resolved(), forms)
    return [
        [joined([rank[form][when] for rank in of_ranks]) for when in (0, 1)]
        for form in range(len(forms))
    ]


@pytest.mark.slow
def test_every_form_starts_with_the_carried_weights_and_takes_the_same_steps(
    source: Experiment,
) -> None:
    experiment = warm(source)
    prepare_start(experiment)
    carried = StoredWeights(RunPaths.of(experiment).initial_weights).tensors()
    found = [*states(experiment, 1, FORMS[:3]), *states(experiment, 2, FORMS)]
    after = found[0][1]
    for start, end in found:
        for name, tensor in carried.items():
            assert torch.equal(start[f"{name} weight"], tensor.flatten()), name
            assert not start[f"{name} exp_avg"].any()
        for name in ("losses", "item_embedding weight"):
            torch.testing.assert_close(end[name], after[name], atol=1e-4, rtol=1e-5)


START = """
from mdsrec.config.loading import experiment_from
from mdsrec.files import read_json
from training.warm.start import prepare_start
prepare_start(experiment_from(read_json(sys.argv[1]), source="test"))
"""


def test_a_driver_that_is_killed_as_it_writes_leaves_no_weights(
    source: Experiment, tmp_path: Path
) -> None:
    experiment = warm(source)
    paths, config = RunPaths.of(experiment), str(tmp_path / "warm.json")
    files.write_json(config, experiment.resolved())
    run_until_killed(START, config)
    assert not files.exists(paths.initial_weights)
    assert not files.exists(paths.initial)
    prepare_start(experiment)
    carried = StoredWeights(paths.initial_weights)
    before = StoredWeights(RunPaths.of(source).best_weights)
    assert torch.equal(carried.tensor("item_embedding"), before.tensor("item_embedding"))


def stored_by_ranks(resolved: dict[str, Any]) -> None:
    """Store the weights of a sharded engine, whose rows are in parts and in another order."""
    experiment = experiment_from(resolved, source="test")
    engine = engine_of(experiment, Job(resolved, precise=False, placed=True))
    saver = Saver(RunPaths.of(experiment).uri, ControlGroup(1.0))
    saver.add_weights(gather_weights(engine, {"dataset": "d"}, "0000"))
    saver._write_part()
    if saver._weights.main is not None:
        saver._write_files()


@pytest.mark.slow
def test_a_source_whose_rows_are_in_parts_is_read_in_the_order_of_items(
    source: Experiment,
) -> None:
    fresh = {**source.resolved(), "seed": 5}
    on_ranks(2, stored_by_ranks, fresh)
    experiment = warm(source)
    stored = StoredWeights(RunPaths.of(source).best_weights)
    assert stored.has_order
    prepare_start(experiment)
    carried = StoredWeights(RunPaths.of(experiment).initial_weights)
    assert torch.equal(carried.tensor("item_embedding"), stored.tensor("item_embedding"))


def run_loop(resolved: dict[str, Any]) -> bool:
    return train(experiment_from(resolved, source="test"), CPU, Reporter()).finished


@pytest.mark.slow
def test_a_warm_training_is_recorded_and_its_checkpoint_is_not_overwritten(
    source: Experiment,
) -> None:
    experiment = warm(source, train={"max_epochs": 1})
    paths = RunPaths.of(experiment)
    prepare_start(experiment)
    assert on_ranks(1, run_loop, experiment.resolved()) == [True]
    record = files.read_json(paths.history)["started_from"]
    assert (record["source"], record["items_carried"]) == (RunPaths.of(source).uri, 40)
    files.delete_file(paths.initial_weights)
    prepare_start(experiment)  # it has a checkpoint
    assert not files.exists(paths.initial_weights)


def refusal(resolved: dict[str, Any]) -> str:
    with pytest.raises(CollectiveInputError) as error:
        run_loop(resolved)
    return str(error.value)


def test_a_training_never_starts_cold_because_its_weights_are_gone(source: Experiment) -> None:
    experiment = warm(source)
    [message] = on_ranks(1, refusal, experiment.resolved())
    assert "initial.safetensors" in message
    prepare_start(experiment)
    write_run(source, scale=0.1)
    uri = RunPaths.of(experiment).initial_weights
    other = warm(source).model_copy(update={"name": "other"})
    files.write_bytes(RunPaths.of(other).initial_weights, files.read_bytes(uri) or b"")
    write_dataset(small_experiment(Path(source.root)), seed=1)
    [message] = on_ranks(1, refusal, other.resolved())
    assert "for data set" in message


def test_a_source_that_was_trained_again_is_refused_only_if_it_is_needed(
    source: Experiment,
) -> None:
    experiment = warm(source)
    prepare_start(experiment)
    uri = RunPaths.of(experiment).initial_weights
    content = files.read_bytes(uri)
    write_run(source, seed=4)
    prepare_start(experiment)
    assert files.read_bytes(uri) == content
    files.delete_file(uri)
    with pytest.raises(InputError, match=r"began with the weights .* it was trained again"):
        prepare_start(experiment)
    write_run(source, scale=0.1)
    prepare_start(experiment)
    assert files.read_bytes(uri) == content


def test_a_source_is_named_or_given_by_its_folder(source: Experiment) -> None:
    by_name, by_folder = warm(source), warm(source, f"{source.root}/runs/before/")
    assert by_folder.train.init_from == f"{source.root}/runs/before"
    assert warm(source, "runs/other").train.init_from == str(Path("runs/other").absolute())
    assert warm(source, "s3://bucket/runs/other").train.init_from == "s3://bucket/runs/other"
    prepare_start(by_name)
    content = files.read_bytes(RunPaths.of(by_name).initial_weights)
    files.delete_folder(RunPaths.of(by_name).uri)
    prepare_start(by_folder)
    assert files.read_bytes(RunPaths.of(by_folder).initial_weights) == content


def test_what_a_run_starts_from_is_part_of_its_identity(source: Experiment) -> None:
    cold = experiment_of(Path(source.root), "mdsrec")
    assert "init_from" not in cold.identity()["train"]
    assert warm(source).identity()["train"]["init_from"] == "before"


def test_a_model_without_weights_and_a_run_itself_are_refused(source: Experiment) -> None:
    content = {**warm(source).resolved(), "model": {"name": "transitions"}}
    with pytest.raises(InputError, match="init_from needs a model with weights"):
        experiment_from(content, source="test")
    with pytest.raises(InputError, match="init_from small is this run itself"):
        warm(source, "small")


def test_the_summary_and_the_report_say_what_a_training_started_from(source: Experiment) -> None:
    experiment = warm(source)
    prepare_start(experiment)
    record = files.read_json(RunPaths.of(experiment).initial)
    history = {"started_from": record, "epochs": [FIGURES], "best_epoch": 0, "num_parameters": 9}
    lines = FitResult(experiment, history).summary().splitlines()
    assert lines[1] == f"started     from {RunPaths.of(source).uri}"
    assert lines[2].strip() == "40 items carried, 0 from neighbors, 0 initial, 0 dropped"
    assert lines[3].strip().endswith("other weights carried, 0 initial, 0 dropped")
    facts = start_facts(history, None)
    assert facts.keys() == {"started from"}
    assert facts["started from"].startswith(f"{record['source']}, weights ")
    assert start_facts({}, "2 items") == {"appended": "2 items"}


@pytest.mark.slow
def test_a_warm_fit_on_ray_says_what_was_carried(source: Experiment, shared_ray: None) -> None:
    experiment = warm(source, train={"max_epochs": 1, "num_workers": 1, "cpus_per_worker": 0.5})
    summary = fit(experiment).summary()
    assert f"started     from {RunPaths.of(source).uri}" in summary
    assert "40 items carried, 0 from neighbors, 0 initial, 0 dropped" in summary
    assert not files.exists(RunPaths.of(experiment).initial_weights)
