"""Links between hosts that fail for a while, or are slow and lose frames: nothing hangs, and what
comes out is what good links bring.
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
from cluster_jobs import Job, history, ranks, within_an_epoch
from hosts import ROOT, Host, needs_hosts, until
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
    """Tables, and a run on this machine: `alone`, trained by two workers."""
    folder = tmp_path_factory.mktemp("links")
    write_raw(folder, users=600, items=200)
    small_toml(folder, MORE)
    for stage in ("etl", "training"):
        here(folder, stage, "name=alone", "train.cpus_per_worker=0.5")
    return folder


def here(folder: Path, stage: str, *words: str) -> None:
    command = [sys.executable, "-m", stage, str(folder / "small.toml"), *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def drop(host: Host) -> None:
    host.link("down")
    time.sleep(SECONDS_DOWN)
    host.link("up")


@pytest.mark.parametrize("waits", [False, True], ids=["Ray's", "the image's"])
def test_a_link_that_drops_for_20_seconds_costs_time_alone(folder: Path, waits: bool) -> None:
    """By Ray's own time-outs training may go on from its checkpoint, by our image's it waits."""
    assert PATIENT
    run = folder / "root" / "runs" / ("waits" if waits else "dropped")
    with ray_hosts(2, folder, **(PATIENT if waits else {})) as (_, _, second, outside):
        job = Job(folder, outside, "training", f"name={run.name}")
        until(lambda: within_an_epoch(run), 240)
        drop(second)
        assert not job.ended()
        log = job.log()
        assert_equal(run)

        job = Job(folder, outside, "evaluation", f"name={run.name}")
        until(lambda: len(list(run.glob("ranks/*/part-*.parquet"))) > 5, 240)
        drop(second)
        log += job.log()
        assert_ranks_equal(folder, run)
    assert not waits or "a worker was lost" not in log


def test_a_host_that_is_cut_off_for_long_counts_as_lost_and_does_no_harm(folder: Path) -> None:
    """What trains there reaches the storage, and ends when it finds another attempt's number."""
    more = "train.num_workers=1", "train.batch_size=1", "train.max_epochs=1"
    alone, run = (folder / "root" / "runs" / name for name in ("one", "cut-off"))
    here(folder, "training", f"name={alone.name}", *more)
    with ray_hosts(2, folder, **QUICK) as (head, *workers, outside):
        job = Job(folder, outside, "training", f"name={run.name}", *more)
        until(lambda: within_an_epoch(run, workers=1), 240)
        host, other = sorted(workers, key=lambda h: not trainers(h))
        [left_behind] = trainers(host)
        left_behind.suspend()
        host.link("down")
        until(lambda: trainers(other), 120)
        left_behind.resume()
        assert "resumed at epoch 0" in job.log()
        assert_close(history(run), history(alone), atol=1e-5, rtol=0)
        until(lambda: rests(left_behind), 120)
        assert not list(run.glob(f"events/*.{host.name}.*"))  # it never came to its epoch's end

        assert not is_alive(head, host)
        host.link("up")
        host.do("ray", "stop", "--force")
        start_worker(host)
        until(lambda: is_alive(head, host), 60)


def trainers(host: Host) -> list[psutil.Process]:
    return host.ray_processes("RayTrainWorker")


def rests(process: psutil.Process) -> bool:
    """Whether it computes nothing any more, or has ended."""
    with suppress(psutil.NoSuchProcess):
        before = process.cpu_times()
        time.sleep(2)
        after = process.cpu_times()
        return after.user + after.system - before.user - before.system < 0.2
    return True


def test_a_link_of_200_ms_that_loses_a_hundredth_costs_time_alone(folder: Path) -> None:
    """What the host sends takes 200 ms; of what it sends and gets, 1% is lost."""
    run = folder / "root" / "runs" / "slow"

    def with_a_bad_link(made: list[Host]) -> None:
        made[2].bad_link(delay=0.2, loss=0.01)

    with ray_hosts(2, folder, with_a_bad_link) as (*_, outside):
        Job(folder, outside, "training", "name=slow").log()
        Job(folder, outside, "evaluation", "name=slow").log()
    assert_equal(run)
    assert_ranks_equal(folder, run)


def assert_equal(run: Path) -> None:
    assert_close(history(run), history(run.parent / "alone"), atol=1e-5, rtol=0)


def assert_ranks_equal(folder: Path, run: Path) -> None:
    """Ranks and metrics are those of this machine, by the same weights."""
    found = ranks(run), json.loads((run / "metrics.json").read_text())["split"]
    shutil.rmtree(run / "ranks")
    here(folder, "evaluation", f"name={run.name}")
    assert found == (ranks(run), json.loads((run / "metrics.json").read_text())["split"])
