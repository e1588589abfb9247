"""The run as a whole: its identity, its survival of a killed worker, what it leaves behind."""

import json
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
from gloo import on_ranks
from ray.train import WorkerGroupError
from ray_processes import ray_processes
from small_dataset import small_experiment, write_dataset
from test_training import trained

from mdsrec import files, schema, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.table_names import run_uri
from training.data.item_tables import load_item_tables
from training.inference import load_trained
from training.lifecycle.identity import claim
from training.loop import Ending
from training.run import Fit, _ended, fit


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


def fingerprints(experiment: Experiment) -> dict[str, str]:
    return load_item_tables(experiment).fingerprints


def test_another_configuration_under_the_same_name_is_refused_by_its_keys(
    experiment: Experiment,
) -> None:
    claim(experiment, fingerprints(experiment))
    other = changed(experiment, optim={"lr": 0.5}, train={"num_workers": 1})
    with pytest.raises(InputError, match=r"small has another configuration \(optim.lr changed\)"):
        claim(other, fingerprints(other))


def test_other_machines_are_the_same_run(experiment: Experiment) -> None:
    claim(experiment, fingerprints(experiment))
    other = changed(
        experiment, train={"num_workers": 1, "device": "cpu", "checkpoint_minutes": 5.0}
    )
    claim(other, fingerprints(other))


def test_a_data_set_that_changed_under_its_run_is_named(experiment: Experiment) -> None:
    claim(experiment, fingerprints(experiment))
    write_dataset(experiment, seed=1)
    with pytest.raises(InputError, match=r"its data set changed under it .*sequences"):
        claim(experiment, fingerprints(experiment))


def test_a_table_made_by_other_settings_is_named_with_them(experiment: Experiment) -> None:
    other = changed(experiment, sequences={"k_core": 9})
    with pytest.raises(InputError, match="made with k_core = 5, the configuration says 9: run"):
        load_item_tables(other)


def test_a_table_older_than_its_input_is_named(experiment: Experiment) -> None:
    uri = tables.table_uri(experiment.root, "neighbors/text/mu=0.2")
    standing = tables.open_table(uri)
    rows = tables.read_table(uri, schema.NEIGHBORS)
    recipe = tables.Recipe(standing.settings, {"features/text": "an earlier one"})
    tables.write_table(uri, rows.to_batches(), schema.NEIGHBORS, recipe)
    with pytest.raises(InputError, match="made before features/text was built anew"):
        load_item_tables(experiment)


@pytest.mark.parametrize(
    ("counter", "lack"), [("prefixes", "learn from"), ("valid", "validate on")]
)
def test_data_with_nothing_to_learn_from_or_validate_on_is_refused(
    experiment: Experiment, counter: str, lack: str
) -> None:
    uri = tables.table_uri(experiment.root, "sequences")
    standing = tables.open_table(uri)
    rows = tables.read_table(uri, schema.SEQUENCES).to_batches()
    recipe = tables.Recipe(standing.settings, standing.inputs)
    tables.write_table(uri, rows, schema.SEQUENCES, recipe, {counter: 0})
    with pytest.raises(InputError, match=lack):
        fit(experiment)


def test_fresh_keeps_the_run_until_all_else_is_in_order(experiment: Experiment) -> None:
    claim(experiment, fingerprints(experiment))
    files.delete_folder(tables.table_uri(experiment.root, "items"))
    with pytest.raises(InputError, match="no such table"):
        fit(experiment, fresh=True)
    assert files.read_bytes(f"{run_uri(experiment)}/config.json") is not None


def test_weights_are_not_scored_under_another_model(experiment: Experiment) -> None:
    claim(experiment, fingerprints(experiment))
    files.write_bytes(f"{run_uri(experiment)}/best.safetensors", b"whatever")
    with pytest.raises(InputError, match=r"another configuration \(model.tau changed\)"):
        load_trained(changed(experiment, model={"tau": 0.5}))


def test_training_without_tables_names_the_stage_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table: run `python -m etl CONFIG` first"):
        fit(small_experiment(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"), [("num_neighbors", 40), ("num_centers", 41)], ids=["H >= items", "k > items"]
)
def test_more_neighbours_or_centres_than_items_are_refused(
    tmp_path: Path, key: str, value: int
) -> None:
    experiment = small_experiment(tmp_path, graph={"max_neighbors": 50})
    write_dataset(experiment)
    with pytest.raises(InputError, match=f"model.{key} = {value}, but (40|35) items"):
        load_item_tables(changed(experiment, model={key: value}))


def test_a_run_without_weights_says_how_to_train_it(experiment: Experiment) -> None:
    with pytest.raises(InputError, match="no trained weights: run `python -m training CONFIG`"):
        load_trained(experiment)


@pytest.mark.ray
def test_a_run_whose_worker_is_killed_equals_one_never_killed(
    experiment: Experiment, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "small"
    finished = _fit_with_a_worker_sent(signal.SIGKILL, experiment, run)
    assert load_trained(experiment).channels == ("all", "fused", "text", "image")
    assert json.loads((run / "config.json").read_text()) == experiment.resolved()
    assert list((run / "events").iterdir())
    again = fit(experiment)
    assert not again.trained_now and again.history == finished.history


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_whose_worker_hangs_equals_one_that_never_did(
    experiment: Experiment, tmp_path: Path
) -> None:
    hasty = changed(experiment, train={"timeout_minutes": 0.3})
    _fit_with_a_worker_sent(signal.SIGSTOP, hasty, tmp_path / "runs" / "small")


def _fit_with_a_worker_sent(number: signal.Signals, experiment: Experiment, run: Path) -> Fit:
    """A training one of whose workers gets a signal within an epoch; it equals one left alone."""
    undisturbed = on_ranks(2, trained, {**experiment.resolved(), "name": "undisturbed"})[0]
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
    deadline = time.monotonic() + 60
    while not sent and time.monotonic() < deadline:
        time.sleep(0.02)
        if not list(run.glob("checkpoints/*-*[1-9]/manifest-*.json")):
            continue
        for process in ray_processes(psutil.Process(), "RayTrainWorker")[:1]:
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                process.send_signal(number)
                sent.append(process.pid)


def test_a_lost_worker_costs_an_attempt_and_a_node_that_leaves_none(caplog):
    lost = WorkerGroupError("all", {1: RuntimeError("The actor died\nIts node is gone\n")})
    caplog.set_level("WARNING", "training")

    def attempts(*outcomes):
        left = list(outcomes)

        class Trainer:
            def fit(self):
                if isinstance(outcome := left.pop(0), Exception):
                    raise outcome
                return SimpleNamespace(return_value=outcome)

        return Trainer

    done, leaves = Ending(finished=True), Ending(finished=False, leaves=True)
    assert _ended(attempts(lost, leaves, leaves, lost, done), max_failures=2) == done
    assert [record.getMessage() for record in caplog.records] == [
        f"a worker was lost: starting again, {n} of 2 times: Its node is gone" for n in (1, 2)
    ]
    with pytest.raises(WorkerGroupError):
        _ended(attempts(lost, lost, done), max_failures=1)
    mistake = WorkerGroupError("mdsrec.errors.InputError: no such key\n", {})
    with pytest.raises(InputError, match=r"^no such key$"):
        _ended(attempts(mistake, done), max_failures=2)
