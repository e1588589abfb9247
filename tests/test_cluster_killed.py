"""Hosts that lose their power in the middle of a job, and a job that is stopped.

The job continues on other hosts, or when the host is back, and its results equal those of an
undisturbed run.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cluster_jobs import Job, checkpoints_within_an_epoch, history, ranks
from hosts import ROOT, Host, needs_hosts, wait_until
from raw_catalogue import small_toml, write_raw
from ray_hosts import ADDRESS, QUICK, is_alive, ray_hosts, start_worker
from safetensors.torch import load_file
from torch.testing import assert_close

pytestmark = [pytest.mark.slow, pytest.mark.ray, needs_hosts, pytest.mark.timeout(1500)]

MORE = """dropout = 0.3
[optim]
lr = 3e-3
[train]
batch_size = 32
max_epochs = 3
checkpoint_minutes = 0.02
[eval]
user_batch = 1
num_workers = 2
[tune]
scheduler = "none"
trials = 4
[tune.space]
optim.lr = { loguniform = [1e-3, 1e-2] }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    write_raw(folder, users=1000, items=300)
    here("etl", small_toml(folder, MORE))
    return folder


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[list[Host]]:
    with ray_hosts(2, folder, **QUICK) as created:
        yield created


def here(*words: str) -> None:
    subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True, capture_output=True)


def cut_power(host: Host) -> None:
    """Cut power and network at once, so no process can report that it ends."""
    host.link("down")
    host.power_off()


def restore(host: Host) -> None:
    host.link("up")
    host.power_on()
    start_worker(host)


def test_a_training_continues_when_its_host_is_back_or_a_spare_joins(
    folder: Path, cluster: list[Host]
) -> None:
    _, first, second, outside = cluster
    two = ("train.num_workers=2",)
    undisturbed, run = folder / "root" / "runs" / "undisturbed", folder / "root" / "runs" / "killed"
    Job(folder, outside, "training", *two, "name=undisturbed").log()

    job = Job(folder, outside, "training", *two, "name=killed")
    wait_until(lambda: checkpoints_within_an_epoch(run), 240)
    cut_power(second)
    start_worker(outside)  # a spare host
    log = job.log()
    assert "resumed at epoch " in log, log
    assert json.loads((run / "history.json").read_text())["num_workers"] == 2
    assert_close(history(run), history(undisturbed), atol=1e-5, rtol=0)
    weights, expected = (load_file(r / "best.safetensors") for r in (run, undisturbed))
    for name in expected:
        assert_close(weights[name], expected[name], atol=1e-4, rtol=0)

    outside.check_output("ray", "stop", "--force")
    restore(second)
    job = Job(folder, outside, "training", *two, "name=killed-twice")
    run = folder / "root" / "runs" / "killed-twice"
    wait_until(lambda: checkpoints_within_an_epoch(run), 240)
    cut_power(first)
    wait_until(lambda: not is_alive(cluster[0], first), 120)
    assert not job.has_ended()
    restore(first)
    assert "resumed at epoch " in job.log()
    assert_close(history(run), history(undisturbed), atol=1e-5, rtol=0)


def test_an_evaluation_continues_on_the_remaining_hosts(folder: Path, cluster: list[Host]) -> None:
    *_, second, outside = cluster
    here("training", str(folder / "small.toml"), "name=ranked")
    run = folder / "root" / "runs" / "ranked"
    Job(folder, outside, "evaluation", "name=ranked").log()
    expected = ranks(run)
    for table in ("ranks", "metrics.json"):
        (run / table).rename(run / f"before-{table}")

    job = Job(folder, outside, "evaluation", "name=ranked")
    wait_until(lambda: len(list(run.glob("ranks/*/part-*.parquet"))) > 5, 240)
    cut_power(second)
    assert not (run / "metrics.json").exists()
    assert "lost a worker process, starting another" in job.log()
    assert ranks(run) == expected
    found, before = (json.loads((run / f"{b}metrics.json").read_text()) for b in ("", "before-"))
    assert found["split"] == before["split"]
    restore(second)


def test_a_sweep_that_loses_a_host_has_the_same_trials(folder: Path, cluster: list[Host]) -> None:
    *_, second, outside = cluster
    Job(folder, outside, "tuning", "name=whole").log()
    job = Job(folder, outside, "tuning", "name=parts")
    wait_until(lambda: sum(bool(r["reports"]) for r in trials(folder, "parts")) == 2, 300)
    cut_power(second)
    wait_until(lambda: not is_alive(cluster[0], second), 120)
    restore(second)
    job.log()
    found, expected = trials(folder, "parts"), trials(folder, "whole")
    assert [results(r) for r in found] == [results(r) for r in expected]
    assert [r["state"] for r in found] == ["finished"] * 4


def trials(folder: Path, name: str) -> list[dict[str, Any]]:
    files = sorted((folder / "root" / "sweeps" / name / "trials").glob("*.json"))
    return [json.loads(path.read_text()) for path in files]


def results(record: dict[str, Any]) -> tuple[Any, ...]:
    """Values, reports and outcomes of a trial, without times and interruptions."""
    reports = [(r["epoch"], r["ndcg@10"]) for r in record["reports"]]
    return record["values"], reports, [outcome["ndcg@10"] for outcome in record["outcomes"]]


def test_a_stopped_job_saves_and_the_next_one_resumes(folder: Path, cluster: list[Host]) -> None:
    *_, outside = cluster
    run = folder / "root" / "runs" / "stopped"
    more = ("name=stopped", "train.num_workers=2")
    # A child of the test process may inherit an ignored SIGINT.
    on_terminal = ["setsid", "--ctty", "env", "--default-signal=INT"]
    words = [*on_terminal, "python", "-m", "cluster", "submit", str(folder / "small.toml")]
    ours, childs = os.openpty()
    shell = subprocess.Popen(
        outside.command(*words, *more, "--address", ADDRESS, "--stages", "training"),
        stdin=childs,
        stdout=childs,
        stderr=childs,
    )
    os.close(childs)
    terminal = Terminal(ours)
    wait_until(lambda: checkpoints_within_an_epoch(run), 240)
    terminal.type("\x03")
    terminal.wait_for("stop the job? [y/N]")
    terminal.type("n\r")
    terminal.wait_for("the job keeps running")
    assert shell.wait(60) == 128 + signal.SIGINT
    job = terminal.text.partition("ray job stop ")[2].split()[0]
    outside.check_output("ray", "job", "stop", job, "--address", ADDRESS, seconds=300)
    log = outside.check_output("ray", "job", "logs", job, "--address", ADDRESS)
    where = log.partition("stopped     SIGTERM: ")[2].splitlines()[0]
    assert f"resumed at {where}" in Job(folder, outside, "training", *more).log()


class Terminal:
    """Text that a process prints on its terminal, read by a thread."""

    def __init__(self, descriptor: int) -> None:
        self.text, self._descriptor = "", descriptor
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError):  # raised when the process has ended
            while content := os.read(self._descriptor, 4096):
                self.text += content.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.text, 60)
