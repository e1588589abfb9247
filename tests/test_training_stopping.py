"""Stop requests reach the workers, also while storage cannot be reached for a while."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdsrec import files
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.lifecycle import signals, stopping
from training.lifecycle.signals import SignalSource
from training.lifecycle.stopping import forget_stop, is_stop_requested, stop_on_request


def becomes_true(condition: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def failing_first(times: int, action: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Return `action`, which raises `error` the first `times` times."""
    left = times

    def failing(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error
        return action(*arguments)

    return failing


def test_a_stop_file_of_an_earlier_training_is_forgotten_and_a_later_one_is_kept(
    tmp_path: Path,
) -> None:
    Path(RunPaths(str(tmp_path)).stop).touch()
    forget_stop(str(tmp_path))
    assert not is_stop_requested(str(tmp_path))
    Path(RunPaths(str(tmp_path)).stop).touch()  # while Ray starts
    with stop_on_request(str(tmp_path)):
        assert is_stop_requested(str(tmp_path))
    assert not is_stop_requested(str(tmp_path))


def test_a_signal_and_the_end_of_the_minutes_request_a_stop(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for signum in (signal.SIGTERM, signal.SIGINT):
        with stop_on_request(run) as request:
            assert not is_stop_requested(run) and not request.reason and not request.exit_code
            os.kill(os.getpid(), signum)
            assert request.reason == signum.name and becomes_true(lambda: is_stop_requested(run))
        assert request.exit_code == 128 + signum and not is_stop_requested(run)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with stop_on_request(run, minutes=1e-6) as request:
        assert becomes_true(lambda: is_stop_requested(run))
        assert request.reason == "--minutes 1e-06"


def test_a_request_is_written_again_until_storage_can_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(files, "write_bytes", failing_first(3, files.write_bytes, OSError("away")))
    with stop_on_request(str(tmp_path), minutes=1e-6):
        assert becomes_true(lambda: is_stop_requested(str(tmp_path)))


def test_a_request_is_found_after_storage_could_not_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "STORAGE_SECONDS", 0.01)
    check = failing_first(3, is_stop_requested, InputError("unknown file system"))
    monkeypatch.setattr(signals, "is_stop_requested", check)
    Path(RunPaths(str(tmp_path)).stop).touch()
    source = SignalSource(str(tmp_path), rank=0, checkpoint_minutes=30)
    assert becomes_true(lambda: source.current().stop)
