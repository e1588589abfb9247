"""Who asks a training to stop is heard, also where storage is out of reach for a while."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdsrec import files
from mdsrec.errors import InputError
from training.lifecycle import signals, stopping
from training.lifecycle.signals import Clock
from training.lifecycle.stopping import asking, is_asked, stop_uri


def becomes_true(holds: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if holds():
            return True
        time.sleep(0.01)
    return False


def away(times: int, action: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """`action`, which fails so many times first."""
    left = times

    def failing(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error
        return action(*arguments)

    return failing


def test_the_driver_asks_on_sigterm_and_when_its_minutes_are_over(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    before = signal.getsignal(signal.SIGTERM)
    Path(tmp_path / "run").mkdir()
    Path(stop_uri(run)).touch()  # of an earlier training
    with asking(run) as asked:
        assert not is_asked(run) and not asked.reason
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.reason == "SIGTERM" and becomes_true(lambda: is_asked(run))
    assert not is_asked(run) and signal.getsignal(signal.SIGTERM) == before
    with asking(run, minutes=1e-6) as asked:
        assert becomes_true(lambda: is_asked(run))
        assert asked.reason == "--minutes 1e-06"


def test_a_request_is_made_again_until_storage_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "TRY_EVERY", 0.01)
    monkeypatch.setattr(files, "write_bytes", away(3, files.write_bytes, OSError("away")))
    with asking(str(tmp_path), minutes=1e-6):
        assert becomes_true(lambda: is_asked(str(tmp_path)))


def test_a_request_is_heard_after_storage_was_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(signals, "is_asked", away(3, is_asked, InputError("no such file system")))
    Path(stop_uri(str(tmp_path))).touch()
    clock = Clock(str(tmp_path), rank=0, checkpoint_minutes=30)
    assert becomes_true(lambda: clock.calls().stop)
