"""Jobs and workers that are killed or get SIGTERM within an epoch: the same command continues."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from epoch_recorder import epochs_of_training
from gloo import on_ranks
from safetensors.torch import load_file
from small_dataset import write_dataset

from evaluation.run import evaluate
from mdsrec.config.loading import load_experiment
from training.data.table_checks import check_item_tables
from training.lifecycle.identity import claim

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parent.parent
CONFIG = """
name = "killed"
root = "{root}"
[input]
edition = "2018"
reviews = ["reviews.json"]
[features.text]
vectors = "text.parquet"
[features.image]
vectors = "image.parquet"
[graph]
max_neighbors = 6
[transitions]
num_neighbors = 6
[model]
dim = 8
inner_dim = 12
max_length = 6
num_neighbors = 4
num_centers = 3
dropout = 0.3
[optim]
lr = 0.01
[train]
batch_size = 6
shuffle_window = 25
max_epochs = 6
num_workers = 2
cpus_per_worker = 0.5
checkpoint_minutes = 0.005
"""
SHORT = "train.max_epochs=2"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "killed.toml"
    path.write_text(CONFIG.format(root=tmp_path))
    write_dataset(load_experiment(path))
    return path


@pytest.fixture
def start(config: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts `python -m training CONFIG ...`. Its jobs end with the test."""
    started: list[psutil.Process] = []

    def start(*words: str) -> subprocess.Popen[str]:
        job = subprocess.Popen(
            # A child of the test process may inherit an ignored SIGINT.
            ["env", "--default-signal=INT", sys.executable, "-m", "training", str(config), *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(psutil.Process(job.pid))
        return job

    yield start
    for job in started:
        if job.is_running():
            job.kill()


def wait_for_a_checkpoint_within_an_epoch(config: Path, seen: set[str]) -> None:
    """Wait for a complete checkpoint whose name is not in `seen`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = (config.parent / "runs" / "killed").glob("checkpoints/*-*[1-9]/manifest-1.json")
        if {path.parent.name for path in found} - seen:
            return
        time.sleep(0.05)
    raise TimeoutError


def names(config: Path) -> set[str]:
    folder = config.parent / "runs" / "killed" / "checkpoints"
    return {path.name for path in folder.iterdir()}


def workers_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(job.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in process.name():
                found.append(process)
    return found


@pytest.mark.slow
def test_a_driver_killed_within_an_epoch_equals_one_never_killed(
    config: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    job = start(SHORT)
    wait_for_a_checkpoint_within_an_epoch(config, set())
    workers, family = workers_of(job), psutil.Process(job.pid).children(recursive=True)
    job.kill()
    job.communicate()
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=20)[1]  # they end without a signal
    for process in family:  # Ray's agents may still run
        with suppress(psutil.NoSuchProcess):
            process.kill()
    output = start(SHORT).communicate()[0]
    assert "resumed at epoch " in output, output
    assert_undisturbed(config, SHORT)


@pytest.mark.slow
def test_a_driver_and_then_a_worker_save_on_sigterm(
    config: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    job = start()
    wait_for_a_checkpoint_within_an_epoch(config, set())
    job.send_signal(signal.SIGTERM)
    output = job.communicate()[0]
    assert job.returncode == 128 + signal.SIGTERM, output
    where = output.partition("stopped     SIGTERM: ")[2].splitlines()[0]
    assert f"next        python -m training {config}" in output

    job = start()
    wait_for_a_checkpoint_within_an_epoch(config, names(config))
    workers_of(job)[0].terminate()
    output = job.communicate()[0]
    assert job.returncode == 0, output
    assert f"resumed at {where}" in output and "a worker's node leaves the cluster" in output
    assert_undisturbed(config)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(
    config: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    job = start(SHORT)
    wait_for_a_checkpoint_within_an_epoch(config, set())
    job.send_signal(signal.SIGINT)
    output = job.communicate()[0]
    assert job.returncode == 128 + signal.SIGINT, output
    where = output.partition("stopped     SIGINT: ")[2].splitlines()[0]
    assert output.splitlines()[-1] == (
        "training: interrupted: what is finished is kept: run the same command again to go on"
    )
    assert "Traceback" not in output and "Gracefully aborting" not in output, output
    output = start(SHORT).communicate()[0]
    assert f"resumed at {where}" in output, output
    assert_undisturbed(config, SHORT)


@pytest.mark.slow
def test_a_stop_file_made_while_ray_starts_is_a_request_to_stop(
    config: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    run = config.parent / "runs" / "killed"
    run.mkdir(parents=True)
    (run / "stop").touch()  # of an earlier training
    job = start(SHORT)
    while not (run.parent / "killed.writer").exists() or (run / "stop").exists():
        assert job.poll() is None
        time.sleep(0.01)
    (run / "stop").touch()
    output = job.communicate()[0]
    assert job.returncode == 0, output
    assert "stopped     the file `stop`: epoch 0" in output and not (run / "stop").exists()
    output = start(SHORT).communicate()[0]
    assert "resumed at epoch 0" in output, output
    assert_undisturbed(config, SHORT)


@pytest.mark.slow
def test_a_finished_run_whose_history_is_lost_writes_it_again(
    config: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    start(SHORT).communicate()
    history = config.parent / "runs" / "killed" / "history.json"
    before = json.loads(history.read_text())
    history.unlink()
    job = start(SHORT)
    output = job.communicate()[0]
    assert job.returncode == 0 and "epochs      2, best epoch" in output, output
    after = json.loads(history.read_text())
    assert after["epochs"] == before["epochs"] and after["finished"]


@pytest.mark.slow
def test_a_worker_killed_within_an_epoch_costs_one_attempt(
    config: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    job = start(SHORT, "train.max_failures=1")
    wait_for_a_checkpoint_within_an_epoch(config, set())
    workers_of(job)[1].kill()
    output = job.communicate()[0]
    assert job.returncode == 0, output
    assert "a worker was lost: starting again, 1 of 1 times: " in output
    assert "resumed at epoch " in output
    assert_undisturbed(config, SHORT)


@pytest.mark.slow
def test_a_finished_run_that_is_killed_while_it_goes_on_equals_one_undisturbed(
    config: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    before = start(SHORT).communicate()[0]
    assert "epochs      2, best epoch" in before, before
    run = config.parent / "runs" / "killed"
    (run / "metrics.json").write_text("of the weights of two epochs")
    job = start()  # to six epochs
    wait_for_a_checkpoint_within_an_epoch(config, names(config))
    job.send_signal(signal.SIGTERM)
    output = job.communicate()[0]
    assert "killed was finished: it goes on from epoch 2, with train.max_epochs = 6" in output
    assert "resumed at epoch 2" in output and "trained before" not in output
    assert not (run / "metrics.json").exists()
    output = start().communicate()[0]
    assert "resumed at epoch " in output and "was finished" not in output, output
    assert_undisturbed(config)
    assert json.loads((run / "config.json").read_text())["train"]["max_epochs"] == 6


DRAINED = """
import sys
import threading
import time
from pathlib import Path

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION as REASON
from ray.util.state import list_actors

from mdsrec.command import run_command
from training.__main__ import main

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for _ in range(2):
    cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, logging_level="WARNING")


def drain(run):
    while not list(run.glob("checkpoints/*-*[1-9]/manifest-1.json")):
        time.sleep(0.05)
    node = next(a.node_id for a in list_actors() if a.class_name == "RayTrainWorker")
    deadline = int(1000 * (time.time() + 20))
    assert GcsClient(address=cluster.address).drain_node(node, REASON, "test", deadline)[0]


threading.Thread(target=drain, args=[Path(sys.argv.pop(1))], daemon=True).start()
code = run_command("training", main)
ray.shutdown()
cluster.shutdown()
sys.exit(code)
"""


@pytest.mark.slow
def test_a_training_saves_before_it_leaves_a_node_that_ray_drains(config: Path) -> None:
    run = config.parent / "runs" / "killed"
    job = subprocess.run(
        [sys.executable, "-c", DRAINED, str(run), str(config), "train.max_epochs=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    assert "a worker's node leaves the cluster" in job.stderr
    assert "resumed at epoch " in job.stdout + job.stderr
    assert_undisturbed(config, "train.max_epochs=12")


@pytest.mark.slow
def test_a_training_that_reaches_its_minutes_has_exit_code_zero(
    config: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    job = start("train.max_epochs=999", "train.patience=999", "--minutes", "0.6")
    output = job.communicate()[0]
    assert job.returncode == 0 and "stopped     --minutes 0.6: epoch " in output, output
    assert names(config)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_exit_code_two_after_one_attempt(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    job = start("optim.lr=1e30")
    output = job.communicate()[0]
    assert job.returncode == 2, output
    assert " not finite at epoch 0, step " in output.splitlines()[-1]
    assert "starting again" not in output


def assert_undisturbed(config: Path, *words: str) -> None:
    """Assert that the run has the epochs, weights and metrics of one without interruption."""
    overrides = [*words, "name=undisturbed", "train.checkpoint_minutes=30.0"]
    undisturbed = load_experiment(config, overrides)
    claim(undisturbed, check_item_tables(undisturbed))
    resolved: dict[str, Any] = undisturbed.resolved()
    expected = on_ranks(2, epochs_of_training, resolved)[0]
    run = config.parent / "runs" / "killed"
    history = json.loads((run / "history.json").read_text())
    found = [[epoch["loss"], epoch["ndcg@10"]] for epoch in history["epochs"]]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=0)
    runs = run, run.parent / "undisturbed"
    left, right = (load_file(r / "best.safetensors") for r in runs)
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-4, rtol=0)
    for experiment in (undisturbed, load_experiment(config, words)):
        evaluate(experiment)
    ranked, expected = (json.loads((r / "metrics.json").read_text())["split"]["test"] for r in runs)
    assert ranked.keys() == expected.keys() > {"all", "fused"}
    for channel, means in ranked.items():
        assert means == pytest.approx(expected[channel], abs=1e-4)
