"""The threads of a training's workers on a CPU."""

import logging
import os
import sys
from pathlib import Path

import psutil
import pytest
from small_dataset import small_experiment

from mdsrec import machine
from mdsrec.config import TrainConfig
from mdsrec.files import write_json
from mdsrec.machine import THREADS_KEY, cores_to_use
from mdsrec.run_paths import RunPaths
from training.distributed import ray_session
from training.distributed.ray_session import threads_of_worker
from training.run import _note_threads
from tuning.stages import RunSpec, train_and_rank


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores, with a Ray that the training has started."""
    monkeypatch.delenv(THREADS_KEY, raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 32 if logical else 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(32), raising=False)
    monkeypatch.setattr(machine, "CPU_LIMIT", Path("/no/such/file"))
    monkeypatch.setattr(ray_session, "has_started_ray", lambda: True)


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 7), (3, 5), (4, 3), (40, 1)])
def test_workers_on_the_machine_of_the_command_share_all_cores_but_one(
    sixteen_cores: None, workers: int, threads: int
) -> None:
    assert threads_of_worker(TrainConfig(num_workers=workers)) == threads


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("400000 100000", 3), ("150000 100000", 1), ("9900000 100000", 15), ("max 100000", 15)],
)
def test_a_container_has_the_cores_of_its_quota(
    sixteen_cores: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    cores: int,
) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "cpu.max")
    assert cores_to_use() == cores


def test_a_process_on_a_set_of_cpus_has_these(
    sixteen_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6})
    assert cores_to_use() == 2


@pytest.mark.parametrize(("given", "cores"), [("6", 6), ("0", 15), ("4,2", 15), ("", 15)])
def test_omp_num_threads_says_how_many_cores_there_are(
    sixteen_cores: None, monkeypatch: pytest.MonkeyPatch, given: str, cores: int
) -> None:
    monkeypatch.setenv(THREADS_KEY, given)
    assert cores_to_use() == cores
    assert threads_of_worker(TrainConfig(num_workers=2)) == min(8, cores // 2)


def test_workers_of_a_cluster_have_one_thread_unless_they_are_given_more(
    sixteen_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_session, "has_started_ray", lambda: False)
    assert threads_of_worker(TrainConfig()) == 1
    assert TrainConfig().cpus_requested == 0.9
    for given, threads in ((0.4, 1), (2.6, 3), (12.0, 12)):
        assert threads_of_worker(TrainConfig(cpus_per_worker=given)) == threads
        assert TrainConfig(cpus_per_worker=given).cpus_requested == given


def test_cpus_of_a_worker_that_are_given_are_its_threads_here_too(sixteen_cores: None) -> None:
    assert threads_of_worker(TrainConfig(cpus_per_worker=2, num_workers=1)) == 2


@pytest.mark.parametrize(("num_sharing", "seen"), [(1, "none"), (3, "5"), (99, "1")])
def test_runs_of_a_study_that_train_at_a_time_share_the_cores(
    sixteen_cores: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_sharing: int,
    seen: str,
) -> None:
    stage = f"import os, sys; open(sys.argv[1], 'w').write(os.environ.get({THREADS_KEY!r}, 'none'))"
    monkeypatch.setattr("tuning.stages.process_of", lambda _: [sys.executable, "-c", stage])
    RunSpec("any", str(tmp_path / "seen"), []).run_stage("training", num_sharing=num_sharing)
    assert (tmp_path / "seen").read_text() == seen
    assert THREADS_KEY not in os.environ


@pytest.mark.parametrize(("jobs", "num_runs", "num_sharing"), [(1, 3, 1), (2, 3, 2), (8, 3, 3)])
def test_a_study_says_how_many_runs_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, jobs: int, num_runs: int, num_sharing: int
) -> None:
    shared: list[int] = []

    def run_stage(_: RunSpec, name: str, *flags: str, num_sharing: int = 1) -> None:
        if name == "training":
            shared.append(num_sharing)

    monkeypatch.setattr(RunSpec, "run_stage", run_stage)
    monkeypatch.setattr(RunSpec, "history", lambda _: {})
    train_and_rank([RunSpec("any", "CONFIG", [])] * num_runs, jobs)
    assert shared == [num_sharing] * num_runs


def test_a_run_that_goes_on_with_other_threads_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = small_experiment(tmp_path)
    caplog.set_level(logging.INFO, "training")
    history = {"epochs": [{"ndcg@10": 0.1, "recall@10": 0.1}], "best_epoch": 0, "num_parameters": 1}
    for before, threads in (({}, 3), ({"threads": 3}, 3), ({"threads": 3}, 7)):
        write_json(RunPaths.of(experiment).history, history | before)
        _note_threads(experiment, threads)
    [record] = caplog.records
    assert "had 3 threads so far and have 7 now" in record.message
    assert "train.cpus_per_worker=3 is as before" in record.message
