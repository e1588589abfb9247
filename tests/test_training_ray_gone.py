"""A driver ends in one line when Ray does not start or is gone, and soon after a signal."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from small_dataset import write_dataset
from test_training_killed import CONFIG, wait_for_a_checkpoint_within_an_epoch

from mdsrec.config.loading import load_experiment
from training.distributed import ray_watch
from training.distributed.ray_internals import (
    START_WAIT_KEY,
    health,
    longer_start,
    server_addresses,
)
from training.distributed.ray_watch import (
    ANSWER_SECONDS,
    END_SECONDS,
    PROBE_SECONDS,
    SILENT_AFTER_SIGNAL,
    RayWatch,
)

ROOT = Path(__file__).parent.parent

CONNECT = """
import sys
from mdsrec.command import run_command
from training.distributed.ray_session import ray_session

def connect(_):
    with ray_session():
        print("connected")

sys.exit(run_command("evaluation", connect))
"""


def last_line(text: str) -> str:
    return text.splitlines()[-1]


@pytest.mark.ray
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"RAY_raylet_start_wait_time_s": "0"}, "Ray did not start: its raylet has not started"),
        ({"RAY_gcs_server_port_wait_time_s": "0"}, "Ray did not start: Timed out waiting for"),
        ({"RAY_ADDRESS": "no-port"}, "RAY_ADDRESS = no-port: "),
        ({"RAY_TMPDIR": "/proc/none"}, "Ray did not start: "),
    ],
)
def test_a_ray_that_does_not_start_is_one_line(variables: dict[str, str], line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONNECT],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert last_line(done.stderr).startswith(f"evaluation: {line}")
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize(("given", "used"), [(None, "600"), ("900", "900"), ("5", "30")])
def test_a_local_ray_may_take_ten_minutes_to_start_or_what_the_user_says(
    monkeypatch: pytest.MonkeyPatch, given: str | None, used: str
) -> None:
    gcs_key = "RAY_gcs_server_port_wait_time_s"
    monkeypatch.setenv(gcs_key, "")  # restored at the end
    monkeypatch.delenv(gcs_key)
    monkeypatch.delenv(START_WAIT_KEY, raising=False)
    if given:
        monkeypatch.setenv(START_WAIT_KEY, given)
    with longer_start():
        assert os.environ[gcs_key] == used


@pytest.mark.ray
def test_a_server_of_ray_answers_and_one_that_hangs_or_is_gone_does_not(shared_ray: None) -> None:
    assert [health(address, 5) for address in server_addresses()] == ["answers"] * 2
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert health(f"127.0.0.1:{server.getsockname()[1]}", 0.2) == "is silent"
    assert health(closed_port(), 5) == "is gone"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


DEAF = """
import signal, sys, time
from training.distributed import ray_watch

ray_watch.server_addresses = lambda: sys.argv[1:]
ray_watch.PROBE_SECONDS, ray_watch.SILENT_AFTER_SIGNAL = 0.05, 3.0
with ray_watch.watch_ray([signal.SIGTERM]) as watch:
    watch.connected()
    signal.signal(signal.SIGTERM, lambda *_: print("asked to save", flush=True))
    print("connected", flush=True)
    while True:
        time.sleep(1)
"""


def test_a_driver_that_waits_for_a_ray_that_is_gone_ends_after_sigterm() -> None:
    job = subprocess.Popen(
        [sys.executable, "-c", DEAF, closed_port()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None and job.stdout.readline() == "connected\n"
    time.sleep(0.5)
    assert job.poll() is None  # a GCS may restart
    job.terminate()
    output, error = job.communicate(timeout=20)
    assert output == "asked to save\n"
    assert job.returncode == 128 + signal.SIGTERM and error.startswith("Ray no longer answers: ")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that moves the time of the watch on by some seconds."""
    now = [100.0]
    monkeypatch.setattr(ray_watch, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_a_driver_that_saves_has_time_as_long_as_ray_answers(
    clock: Callable[[float], None],
) -> None:
    watch = RayWatch(graceful=[signal.SIGTERM])  # without servers every probe has its answer
    watch.receive(signal.SIGTERM)
    clock(0.5)
    watch.receive(signal.SIGTERM)  # the same one, forwarded by the parent
    clock(3600)
    assert watch.probe() and not watch.reason_to_end()
    watch.receive(signal.SIGTERM)
    clock(END_SECONDS + 1)
    assert watch.probe() and "within 30 s" in watch.reason_to_end()
    assert watch.exit_code == 143


def test_a_ray_that_shuts_down_slowly_is_no_error(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "answers"
    monkeypatch.setattr(ray_watch, "server_addresses", lambda: ("gcs", "raylet"))
    monkeypatch.setattr(ray_watch, "health", lambda *_: answer)
    monkeypatch.setattr(ray_watch, "_in_main_thread", lambda: False)  # keeps pytest's handlers
    watch = RayWatch(graceful=[])
    watch.connected()
    watch.disconnecting()
    answer = "is gone"
    clock(3600)
    assert not watch.reason_to_end()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_has_nothing_to_save_ends_soon_after_a_signal(
    clock: Callable[[float], None], signum: int
) -> None:
    watch = RayWatch(graceful=[])
    clock(3600)
    assert not watch.reason_to_end()
    watch.receive(signum)
    clock(END_SECONDS + 1)
    assert watch.reason_to_end() and watch.exit_code == 128 + signum
    # A probe of two servers, before and after the signal, is in the minute too.
    assert END_SECONDS + 4 * ANSWER_SECONDS + 2 * PROBE_SECONDS < 60
    assert SILENT_AFTER_SIGNAL + 4 * ANSWER_SECONDS + 2 * PROBE_SECONDS < 60


# A child of the test process may inherit an ignored SIGINT.
INTERRUPTIBLE = ("env", "--default-signal=INT")


def kill_raylet(job: subprocess.Popen[str]) -> None:
    for process in psutil.Process(job.pid).children(recursive=True):
        if process.name() == "raylet":
            process.kill()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, None])
def test_a_training_whose_raylet_was_killed_ends_within_a_minute(
    tmp_path: Path, signum: int | None
) -> None:
    """After SIGTERM the workers may still save, as they outlive their raylet by some seconds."""
    config = tmp_path / "killed.toml"
    config.write_text(CONFIG.format(root=tmp_path))
    write_dataset(load_experiment(config))
    job = subprocess.Popen(
        [*INTERRUPTIBLE, sys.executable, "-m", "training", str(config), "train.max_epochs=9999"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_a_checkpoint_within_an_epoch(config, set())
    kill_raylet(job)
    began = time.monotonic()
    if signum:
        time.sleep(1)
        job.send_signal(signum)
    output = job.communicate()[0]
    assert time.monotonic() - began < 60, output
    assert job.returncode == (128 + signum if signum else 2), output
    assert "Traceback" not in output, output
    if not signum:
        assert "Ray no longer answers: " in last_line(output)


EXIT = """
import sys, threading
import ray
from mdsrec.command import run_command
from training.distributed.ray_session import ray_session

def wait(_):
    with ray_session():
        threading.Timer(1, print, ["waiting"], {"flush": True}).start()
        ray.wait([ray.remote(num_cpus=100)(lambda: 0).remote()])

sys.exit(run_command("evaluation", wait))
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_waits_for_ray_ends_at_once_with_the_exit_code_of_a_signal(
    signum: int,
) -> None:
    job = subprocess.Popen(
        [*INTERRUPTIBLE, sys.executable, "-c", EXIT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None and job.stdout.readline() == "waiting\n"
    job.send_signal(signum)
    try:
        error = job.communicate(timeout=END_SECONDS)[1]
    finally:
        job.kill()  # otherwise its Ray would stay for the next tests
    assert job.returncode == 128 + signum, error
    assert "Traceback" not in error
