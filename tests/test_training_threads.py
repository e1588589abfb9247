"""The threads of a training's workers on a CPU."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from mdsrec.config import TrainConfig
from mdsrec.machine import THREADS_KEY, cores_to_use
from training.distributed import ray_session
from training.distributed.ray_session import threads_of_worker
from tuning.stages import RunSpec


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores, with a Ray that the training has started."""
    monkeypatch.delenv(THREADS_KEY, raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 32 if logical else 16)
    monkeypatch.setattr(ray_session, "has_started_ray", lambda: True)
    monkeypatch.setattr(ray_session, "capacity", lambda: {"CPU": 32.0, "GPU": 0.0})


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 7), (3, 5), (4, 3), (40, 1)])
def test_workers_on_the_machine_of_the_command_share_all_cores_but_one(
    sixteen_cores: None, workers: int, threads: int
) -> None:
    assert threads_of_worker(TrainConfig(num_workers=workers)) == threads


def test_a_container_has_the_cores_that_ray_counts(
    sixteen_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_session, "capacity", lambda: {"CPU": 3.0, "GPU": 0.0})
    assert threads_of_worker(TrainConfig()) == 3


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
