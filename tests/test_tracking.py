"""Runs in MLflow and Weights & Biases, by the real clients; a tracker that fails stops nothing."""

import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import wait_until
from raw_catalogue import small_toml, write_raw
from small_dataset import small_experiment

from mdsrec import files
from mdsrec.config.loading import experiment_from
from mdsrec.run_paths import RunPaths
from training import tracking as tracking_module
from training.reporting import RayReporter
from training.tracking import Tracking, adopt, read_record
from training.tracking_clients import MlflowRun

ROOT = Path(__file__).parent.parent
EPOCHS = [{"epoch": n, "loss": 3.0 - n, "ndcg@10": 0.1 * n, "seconds": 2.0} for n in range(3)]


def tracked_experiment(root, client, name="small"):
    """Return an experiment with a tracker, and a credential in its section [spark]."""
    content = small_experiment(root, train={"tracking": client}).resolved()
    settings = {"spark.hadoop.fs.s3a.secret.key": "hunter2"}
    content |= {"name": name, "spark": {**content["spark"], "settings": settings}}
    return experiment_from(content, source="test")


def finish_epochs(experiment, count):
    """Report the first `count` epochs as a training that starts after those sent before."""
    tracking = Tracking.of(experiment)
    for end in range(read_record(RunPaths.of(experiment).uri, "")["epochs"] + 1, count + 1):
        files.write_json(RunPaths.of(experiment).history, {"epochs": EPOCHS[:end]})
        tracking.report_epoch(EPOCHS[end - 1])
    tracking.close()


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """Return a client of an MLflow store in files of this machine."""
    module = pytest.importorskip("mlflow", reason="the client mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # quicker than a database
    return module.MlflowClient()


@pytest.fixture
def wandb_folder(tmp_path, monkeypatch):
    """Return the folder of the runs that W&B keeps while it is offline."""
    module = pytest.importorskip("wandb", reason="the client wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield tmp_path / "wandb"
    module.teardown()  # else the next test writes into this folder


def mlflow_runs(client):
    [experiment] = [e for e in client.search_experiments() if e.name == "mdsrec"]
    return client.search_runs([experiment.experiment_id])


def test_a_run_that_is_continued_and_evaluated_is_one_run_of_mlflow(mlflow, tmp_path):
    experiment = tracked_experiment(tmp_path, "mlflow")
    finish_epochs(experiment, 2)
    finish_epochs(experiment, 3)
    tracking = Tracking.of(experiment)
    tracking.summarize({"test/ndcg@10": 0.25})
    tracking.close()
    [run] = mlflow_runs(mlflow)
    points = mlflow.get_metric_history(run.info.run_id, "ndcg_at_10")
    assert [(point.step, point.value) for point in points] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert run.data.metrics["test/ndcg_at_10"] == 0.25
    assert run.data.params["optim.lr"] == "0.01"
    assert "hunter2" not in str(run.data)
    assert (run.info.run_name, run.info.status) == ("small", "FINISHED")


def test_a_training_that_raised_an_error_failed_and_runs_again_when_it_goes_on(mlflow, tmp_path):
    experiment = tracked_experiment(tmp_path, "mlflow")
    more = [Tracking.of(experiment)]
    with pytest.raises(ZeroDivisionError), RayReporter(experiment, 1, False, more):
        _ = 1 / 0
    [run] = mlflow_runs(mlflow)
    assert run.info.status == "FAILED"
    again = MlflowRun("small", {}, read_record(RunPaths.of(experiment).uri, "mlflow"))
    assert mlflow.get_run(run.info.run_id).info.status == "RUNNING"
    again.close(failed=False)
    [run] = mlflow_runs(mlflow)
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("failed", [False, True])
def test_a_failed_training_has_the_exit_code_1_in_wandb(wandb_folder, tmp_path, failed):
    Tracking.of(tracked_experiment(tmp_path, "wandb")).close(failed)
    [log] = wandb_folder.glob("offline-run-*/logs/debug.log")
    assert f"got exitcode: {int(failed)}\n" in log.read_text()


def test_the_id_in_another_tracker_is_not_reused(tmp_path):
    stored = {"client": "mlflow", "id": "abc", "epochs": 7}
    files.write_json(f"{tmp_path}/tracking.json", stored)
    assert read_record(str(tmp_path), "mlflow").items() >= stored.items()
    other = read_record(str(tmp_path), "wandb")
    assert (other["client"], other["id"], other["epochs"]) == ("wandb", None, 0)


def test_a_trial_is_a_child_of_the_run_of_its_sweep(mlflow, tmp_path):
    Tracking("mlflow", f"{tmp_path}/sweeps/a", "a", {"tune.trials": 2}).close()
    trial = tracked_experiment(tmp_path, "mlflow", "a-00000")
    adopt(RunPaths.of(trial).uri, f"{tmp_path}/sweeps/a", "a", "mlflow")
    finish_epochs(trial, 1)
    run_of = {run.info.run_name: run for run in mlflow_runs(mlflow)}
    parent = run_of["a"].info.run_id
    assert run_of["a-00000"].data.tags["mlflow.parentRunId"] == parent
    assert run_of["a-00000"].data.metrics["loss"] == 3.0


def test_a_run_is_kept_by_wandb_while_it_is_offline(wandb_folder, tmp_path):
    experiment = tracked_experiment(tmp_path, "wandb")
    adopt(RunPaths.of(experiment).uri, f"{tmp_path}/sweeps/a", "my-sweep", "wandb")
    finish_epochs(experiment, 2)
    run_id = read_record(RunPaths.of(experiment).uri, "wandb")["id"]
    [stored] = wandb_folder.glob("offline-run-*/*.wandb")
    assert stored.name == f"run-{run_id}.wandb"
    texts = (b"ndcg_at_10", b"optim.lr", b"my-sweep")
    wait_until(lambda: all(text in stored.read_bytes() for text in texts), 20)
    assert b"hunter2" not in stored.read_bytes()


def warnings_of(experiment, caplog):
    """Return the warnings of a run of three epochs, and the seconds that it took."""
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "training"):
        finish_epochs(experiment, 3)
    return caplog.messages, time.monotonic() - started


def test_a_client_that_is_not_installed_is_one_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    [warning], _ = warnings_of(tracked_experiment(tmp_path, "wandb"), caplog)
    assert warning.startswith("small: train.tracking = wandb: ")
    assert warning.endswith('pip install "mdsrec[wandb]": nothing more is sent')


def test_a_server_that_nobody_answers_for_is_one_warning(mlflow, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    [warning], _ = warnings_of(tracked_experiment(tmp_path, "mlflow"), caplog)
    assert warning.startswith("small: train.tracking = mlflow: ")
    assert "127.0.0.1" in warning and "\n" not in warning


def test_a_server_that_never_answers_costs_a_bounded_wait(mlflow, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tracking_module, "WAIT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        messages, seconds = warnings_of(tracked_experiment(tmp_path, "mlflow"), caplog)
    assert messages == [
        "small: train.tracking = mlflow: no answer within 0.5 s: nothing more is sent"
    ]
    assert seconds < 5


def test_a_tracker_is_not_part_of_a_runs_identity(tmp_path):
    plain, tracked = small_experiment(tmp_path), tracked_experiment(tmp_path, "mlflow")
    assert plain.identity() == tracked.identity()
    assert Tracking.of(plain) is None
    assert not Path(RunPaths.of(plain).uri).exists()


SWEEP = """num_neighbors = 5
[optim]
lr = 3e-3
[train]
max_epochs = 2
tracking = "mlflow"
[tune]
scheduler = "none"
searcher = "grid"
[tune.space]
model.num_neighbors = { grid = [0, 5] }
"""


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_has_a_child_for_each_trial_and_the_winner_has_test_metrics(mlflow, tmp_path):
    write_raw(tmp_path)
    config = small_toml(tmp_path, SWEEP)
    command = [sys.executable, "-m", "mdsrec", "tune", config, "name=a"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    run_of = {run.info.run_name: run for run in mlflow_runs(mlflow)}
    assert sorted(run_of) == ["a", "a-00000", "a-00001"]
    parent = run_of.pop("a")
    for run in run_of.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert len(mlflow.get_metric_history(run.info.run_id, "ndcg_at_10")) == 2
    best = run_of[f"a-{int(parent.data.metrics['best/trial']):05d}"]
    [ranked] = [run for run in run_of.values() if "test/ndcg_at_10" in run.data.metrics]
    assert ranked.info.run_id == best.info.run_id
    points = mlflow.get_metric_history(best.info.run_id, "ndcg_at_10")
    assert parent.data.metrics["best/ndcg_at_10"] == max(point.value for point in points)
