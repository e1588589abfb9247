"""A run as a whole: its identity, what it refuses, a killed worker, the files it writes."""

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from epoch_recorder import epochs_of_training
from gloo import on_ranks
from ray.train import WorkerGroupError
from ray_processes import ray_processes
from small_dataset import NUM_ITEMS, small_experiment, write_dataset

from mdsrec import files, schema, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.data.item_tables import load_item_tables
from training.data.table_checks import check_item_tables
from training.inference import load_trained
from training.lifecycle.identity import claim
from training.loop import AttemptResult
from training.run import FitResult, _run_attempts, fit


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    experiment = small_experiment(
        tmp_path,
        train={
            "num_workers": 2,
            "cpus_per_worker": 0.5,
            "max_epochs": 4,
            "checkpoint_minutes": 0.001,
        },
    )
    write_dataset(experiment)
    return experiment


def changed(experiment: Experiment, **sections: dict[str, Any]) -> Experiment:
    content = experiment.resolved()
    for section, values in sections.items():
        content[section] |= values
    return Experiment.model_validate(content)


def test_another_configuration_under_the_same_name_is_refused_by_its_keys(
    experiment: Experiment,
) -> None:
    claim(experiment, check_item_tables(experiment))
    other = changed(experiment, optim={"lr": 0.5}, train={"num_workers": 1})
    with pytest.raises(InputError, match=r"small has another configuration \(optim.lr changed\)"):
        claim(other, check_item_tables(other))


def test_the_keys_of_the_machine_may_change_within_a_run(experiment: Experiment) -> None:
    claim(experiment, check_item_tables(experiment))
    other = changed(
        experiment, train={"num_workers": 1, "device": "cpu", "checkpoint_minutes": 5.0}
    )
    claim(other, check_item_tables(other))


def test_a_data_set_that_has_changed_is_named(experiment: Experiment) -> None:
    claim(experiment, check_item_tables(experiment))
    write_dataset(experiment, seed=1)
    with pytest.raises(InputError, match=r"its data set has changed .*sequences"):
        claim(experiment, check_item_tables(experiment))


def test_a_table_made_with_other_settings_is_named_with_them(experiment: Experiment) -> None:
    other = changed(experiment, sequences={"k_core": 9})
    with pytest.raises(InputError, match="made with k_core = 5, the configuration says 9: run"):
        load_item_tables(other)


def test_a_table_older_than_its_input_is_named(experiment: Experiment) -> None:
    uri = tables.table_uri(experiment.root, "neighbors/text/mu=0.2")
    manifest = tables.open_table(uri)
    rows = tables.read_table(uri, schema.NEIGHBORS)
    recipe = tables.Recipe(manifest.settings, {"features/text": "an earlier one"})
    tables.write_table(uri, rows.to_batches(), schema.NEIGHBORS, recipe)
    with pytest.raises(InputError, match="made before features/text was rebuilt"):
        load_item_tables(experiment)


@pytest.mark.parametrize(
    ("counter", "problem"), [("prefixes", "learn from"), ("valid", "validate on")]
)
def test_data_with_nothing_to_learn_from_or_validate_on_is_refused(
    experiment: Experiment, counter: str, problem: str
) -> None:
    uri = tables.table_uri(experiment.root, "sequences")
    manifest = tables.open_table(uri)
    rows = tables.read_table(uri, schema.SEQUENCES).to_batches()
    recipe = tables.Recipe(manifest.settings, manifest.inputs)
    tables.write_table(uri, rows, schema.SEQUENCES, recipe, {counter: 0})
    with pytest.raises(InputError, match=problem):
        fit(experiment)


def test_fresh_deletes_the_run_only_after_all_checks(experiment: Experiment) -> None:
    claim(experiment, check_item_tables(experiment))
    files.delete_folder(tables.table_uri(experiment.root, "items"))
    with pytest.raises(InputError, match="no such table"):
        fit(experiment, fresh=True)
    assert files.read_bytes(RunPaths.of(experiment).config) is not None


def test_a_disk_without_room_for_a_checkpoint_is_named_before_ray_starts(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = 3 * 4 * NUM_ITEMS * experiment.model.dim  # the item table and two moments
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=checkpoint - 1))
    with pytest.raises(InputError, match=r"MiB free, but the checkpoints of this model take"):
        fit(experiment)
    assert not Path(RunPaths.of(experiment).uri).exists()


def test_weights_are_not_loaded_into_another_model(experiment: Experiment) -> None:
    claim(experiment, check_item_tables(experiment))
    files.write_bytes(RunPaths.of(experiment).best_weights, b"whatever")
    with pytest.raises(InputError, match=r"another configuration \(model.tau changed\)"):
        load_trained(changed(experiment, model={"tau": 0.5}))


def test_training_without_tables_names_the_stage_that_builds_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table: run `mdsrec etl CONFIG` first"):
        fit(small_experiment(tmp_path))


def test_the_driver_reads_manifests_but_no_parquet_data(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = load_item_tables(experiment).fingerprints
    for file in Path(experiment.root).rglob("*.parquet"):
        file.write_bytes(bytes(file.stat().st_size))  # unreadable, with the size of the manifest
    assert check_item_tables(experiment) == fingerprints
    monkeypatch.setattr("training.run.run_lease", _after_all_checks)
    with pytest.raises(InterruptedError):
        fit(experiment)


def _after_all_checks(*_: object) -> None:
    raise InterruptedError


@pytest.mark.parametrize(
    ("key", "value"), [("num_neighbors", 40), ("num_centers", 41)], ids=["H >= items", "k > items"]
)
def test_more_neighbors_or_centers_than_items_are_refused(
    tmp_path: Path, key: str, value: int
) -> None:
    experiment = small_experiment(tmp_path, graph={"max_neighbors": 50})
    write_dataset(experiment)
    with pytest.raises(InputError, match=f"model.{key} = {value}, but (40|35) items"):
        load_item_tables(changed(experiment, model={key: value}))


def test_a_run_without_weights_names_the_command_that_trains_it(experiment: Experiment) -> None:
    with pytest.raises(InputError, match="no trained weights: run `mdsrec train CONFIG`"):
        load_trained(experiment)


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_whose_worker_is_killed_equals_one_never_killed(
    experiment: Experiment, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "small"
    finished = _fit_with_signal(signal.SIGKILL, experiment, run)
    assert load_trained(experiment).channels == ("fused", "text", "image")
    assert files.read_json(str(run / "config.json")) == experiment.resolved()
    assert list((run / "events").iterdir())
    again = fit(experiment)
    assert not again.trained_now and again.history == finished.history


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_whose_worker_hangs_equals_one_that_never_hangs(
    experiment: Experiment, tmp_path: Path
) -> None:
    impatient = changed(experiment, train={"timeout_minutes": 0.3})
    _fit_with_signal(signal.SIGSTOP, impatient, tmp_path / "runs" / "small")


def _fit_with_signal(number: signal.Signals, experiment: Experiment, run: Path) -> FitResult:
    """Train, and send one worker a signal within an epoch.

    Its epochs must equal those of a training without a signal.
    """
    resolved = {**experiment.resolved(), "name": "undisturbed"}
    undisturbed = on_ranks(2, epochs_of_training, resolved)[0]
    sent: list[int] = []
    sender = threading.Thread(target=_send_within_an_epoch, args=(number, run, sent))
    sender.start()
    finished = fit(experiment)
    sender.join()
    assert sent
    found = [[epoch["loss"], epoch["ndcg@10"]] for epoch in finished.history["epochs"]]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(undisturbed), atol=1e-5, rtol=0)
    return finished


def _send_within_an_epoch(number: signal.Signals, run: Path, sent: list[int]) -> None:
    deadline = time.monotonic() + 300
    while not sent and time.monotonic() < deadline:
        time.sleep(0.02)
        if not list(run.glob("checkpoints/*-*[1-9]/manifest-*.json")):
            continue
        for process in ray_processes(psutil.Process(), "RayTrainWorker")[:1]:
            with suppress(psutil.NoSuchProcess):  # it has ended
                process.send_signal(number)
                sent.append(process.pid)


def test_a_lost_worker_costs_an_attempt_and_a_leaving_node_costs_none(caplog):
    lost = WorkerGroupError("all", {1: RuntimeError("The actor died\nIts node is gone\n")})
    caplog.set_level("WARNING", "training")

    def attempts(*outcomes):
        """Return a class of trainers with these outcomes, in order."""
        remaining = list(outcomes)

        class Trainer:
            def fit(self):
                if isinstance(outcome := remaining.pop(0), Exception):
                    raise outcome
                return SimpleNamespace(return_value=outcome)

        return Trainer

    done, leaves = AttemptResult(finished=True), AttemptResult(finished=False, restart=True)
    assert _run_attempts(attempts(lost, leaves, leaves, lost, done), max_failures=2) == done
    assert [record.getMessage() for record in caplog.records] == [
        f"a worker was lost: starting again, {n} of 2 times: Its node is gone" for n in (1, 2)
    ]
    with pytest.raises(WorkerGroupError):
        _run_attempts(attempts(lost, lost, done), max_failures=1)
    mistake = WorkerGroupError("mdsrec.errors.InputError: no such key\n", {})
    with pytest.raises(InputError, match=r"^no such key$"):
        _run_attempts(attempts(mistake, done), max_failures=2)
