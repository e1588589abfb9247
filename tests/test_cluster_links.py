"""Network links that fail for a while, or are slow and lose frames.

No job hangs, and results equal those of good links.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cluster_jobs import Job, checkpoints_within_an_epoch, history, ranks
from hosts import ROOT, Host, needs_hosts, wait_until
from raw_catalogue import small_toml, write_raw
from ray_hosts import QUICK, is_alive, ray_hosts, start_worker
from torch.testing import assert_close

pytestmark = [pytest.mark.slow, pytest.mark.ray, needs_hosts, pytest.mark.timeout(2400)]

MORE = """dropout = 0.3
[optim]
lr = 3e-3
[train]
num_workers = 2
batch_size = 64
max_epochs = 3
checkpoint_minutes = 0.005
[eval]
user_batch = 1
num_workers = 2
"""
SECONDS_DOWN = 20
DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text()
PATIENT = dict(re.findall(r"^ENV (RAY_\w+)=(\w+)$", DOCKERFILE, re.MULTILINE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, and the run `undisturbed`, trained by two workers on this machine."""
    folder = tmp_path_factory.mktemp("links")
    write_raw(folder, users=600, items=200)
    small_toml(folder, MORE)
    for stage in ("etl", "training"):
        here(folder, stage, "name=undisturbed", "train.cpus_per_worker=0.5")
    return folder


def here(folder: Path, stage: str, *words: str) -> None:
    command = [sys.executable, "-m", stage, str(folder / "small.toml"), *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def cut_link(host: Host) -> None:
    host.link("down")
    time.sleep(SECONDS_DOWN)
    host.link("up")


@pytest.mark.parametrize("patient", [False, True], ids=["Ray's", "the image's"])
def test_a_link_that_is_down_for_20_seconds_costs_only_time(folder: Path, patient: bool) -> None:
    """With Ray's time-outs training may resume from its checkpoint; with the image's it waits."""
    assert PATIENT
    run = folder / "root" / "runs" / ("patient" if patient else "dropped")
    with ray_hosts(2, folder, **(PATIENT if patient else {})) as (_, _, second, outside):
        job = Job(folder, outside, "training", f"name={run.name}")
        wait_until(lambda: checkpoints_within_an_epoch(run), 240)
        cut_link(second)
        assert not job.has_ended()
        log = job.log()
        assert_history_equals_undisturbed(run)

        job = Job(folder, outside, "evaluation", f"name={run.name}")
        wait_until(lambda: len(list(run.glob("ranks/*/part-*.parquet"))) > 5, 240)
        cut_link(second)
        log += job.log()
        assert_ranks_equal(folder, run)
    assert not patient or not re.search("a worker was lost|lost a worker process", log)


def test_a_worker_that_was_cut_off_writes_nothing_after_another_attempt_started(
    folder: Path,
) -> None:
    """It still reaches the storage, and ends when it finds another attempt's fencing token."""
    more = "train.num_workers=1", "train.batch_size=1", "train.max_epochs=1"
    undisturbed, run = (folder / "root" / "runs" / name for name in ("one", "cut-off"))
    here(folder, "training", f"name={undisturbed.name}", *more)
    with ray_hosts(2, folder, **QUICK) as (head, *workers, outside):
        job = Job(folder, outside, "training", f"name={run.name}", *more)
        wait_until(lambda: checkpoints_within_an_epoch(run, workers=1), 240)
        host, other = sorted(workers, key=lambda h: not trainers(h))
        [left_behind] = trainers(host)
        left_behind.suspend()
        host.link("down")
        wait_until(lambda: trainers(other), 120)
        left_behind.resume()
        assert "resumed at epoch 0" in job.log()
        assert_close(history(run), history(undisturbed), atol=1e-5, rtol=0)
        wait_until(lambda: is_idle(left_behind), 120)
        assert not list(run.glob(f"events/*.{host.name}.*"))  # it never finished its epoch

        assert not is_alive(head, host)
        host.link("up")
        host.check_output("ray", "stop", "--force")
        start_worker(host)
        wait_until(lambda: is_alive(head, host), 60)


def trainers(host: Host) -> list[psutil.Process]:
    return host.ray_processes("RayTrainWorker")


def is_idle(process: psutil.Process) -> bool:
    """Return whether a process uses no CPU any more, or has ended."""
    with suppress(psutil.NoSuchProcess):
        before = process.cpu_times()
        time.sleep(2)
        after = process.cpu_times()
        return after.user + after.system - before.user - before.system < 0.2
    return True


def test_a_link_of_200_ms_that_loses_one_percent_costs_only_time(folder: Path) -> None:
    """Frames from the host take 200 ms; 1% of the frames in either direction is lost."""
    run = folder / "root" / "runs" / "slow"

    def with_a_lossy_link(created: list[Host]) -> None:
        created[2].use_lossy_link(delay=0.2, loss=0.01)

    with ray_hosts(2, folder, with_a_lossy_link) as (*_, outside):
        Job(folder, outside, "training", "name=slow").log()
        Job(folder, outside, "evaluation", "name=slow").log()
    assert_history_equals_undisturbed(run)
    assert_ranks_equal(folder, run)


def assert_history_equals_undisturbed(run: Path) -> None:
    assert_close(history(run), history(run.parent / "undisturbed"), atol=1e-5, rtol=0)


def assert_ranks_equal(folder: Path, run: Path) -> None:
    """Check that ranks and metrics equal those that this machine computes from the same weights."""
    found = ranks(run), json.loads((run / "metrics.json").read_text())["split"]
    shutil.rmtree(run / "ranks")
    here(folder, "evaluation", f"name={run.name}")
    assert found == (ranks(run), json.loads((run / "metrics.json").read_text())["split"])
