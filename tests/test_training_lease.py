"""One driver trains a run at a time; the lease of a dead driver is free."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mdsrec.errors import InputError
from mdsrec.jobs import lease
from mdsrec.run_paths import RunPaths
from training.lifecycle.lease import Attempt, is_superseded, run_lease


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 0.5)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.5)
    return str(tmp_path / "run")


def heartbeat_file(run: str) -> Path:
    return Path(RunPaths(run).lease)


def test_a_second_driver_is_refused_with_the_process_of_the_first(run: str) -> None:
    with run_lease(run) as own:
        assert own.other_holder() is None
        refusal = r"process \d+ on \S+ \(since .+ UTC\) is training "
        refusal += re.escape(f"{run}: wait for it")
        with pytest.raises(InputError, match=refusal), run_lease(run):
            pass
    with run_lease(run):
        pass
    assert not heartbeat_file(run).exists()


def test_the_lease_of_a_dead_driver_is_taken_over(run: str) -> None:
    left_behind = {"host": "gone", "pid": 7, "token": "old", "count": 3}
    heartbeat_file(run).write_text(json.dumps(left_behind))
    with run_lease(run) as own:
        assert is_superseded(run, Attempt("old", 1)) and own.other_holder() is None


def test_an_incomplete_heartbeat_file_holds_no_lease(run: str) -> None:
    for content in ("", "{", "[]", '{"pid": 7}'):
        heartbeat_file(run).write_text(content)
        assert not is_superseded(run, Attempt("own", 1))
        with run_lease(run) as own:
            assert own.other_holder() is None


def test_of_drivers_that_start_at_the_same_moment_one_keeps_the_lease(run: str) -> None:
    barrier, refused, holders = threading.Barrier(4), [], []
    ended = threading.Event()

    def drive() -> None:
        barrier.wait()
        try:
            with run_lease(run) as own:
                holders.append(own)
                ended.wait()
        except InputError as error:
            refused.append(str(error))

    drivers = [threading.Thread(target=drive) for _ in range(4)]
    for driver in drivers:
        driver.start()
    wait_until(20, lambda: len(refused) + len(holders) == 4)
    wait_until(20, lambda: sum(own.other_holder() is None for own in holders) == 1)
    ended.set()
    for driver in drivers:
        driver.join()


def wait_until(seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_suspended_driver_leaves_the_lease_to_the_one_that_took_it_over(run: str) -> None:
    with run_lease(run) as own:
        other = {"host": "other", "pid": 7, "token": "new", "count": 0}
        heartbeat_file(run).write_text(json.dumps(other))
        time.sleep(0.3)
        assert own.other_holder() == other
        assert is_superseded(run, own.begin_attempt())
    assert json.loads(heartbeat_file(run).read_text()) == other


def test_a_new_attempt_of_the_same_driver_supersedes_the_one_before(run: str) -> None:
    with run_lease(run) as own:
        first = own.begin_attempt()
        assert not is_superseded(run, first)
        second = own.begin_attempt()
        time.sleep(0.3)  # some heartbeats
        assert is_superseded(run, first)
        assert not is_superseded(run, second)


def test_an_attempt_begins_while_storage_cannot_be_reached(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_lease(run) as own:
        first = own.begin_attempt()
        with monkeypatch.context() as outage:
            outage.setattr(lease.files, "write_json", _unreachable)
            second = own.begin_attempt()
        assert not is_superseded(run, second)
        wait_until(5, lambda: is_superseded(run, first))


def _unreachable(*_: object) -> None:
    raise OSError("no answer")


def test_a_living_driver_loses_the_lease_to_one_that_takes_over(run: str) -> None:
    with run_lease(run) as loser:
        attempt = loser.begin_attempt()
        with run_lease(run, takes_over=True) as own:
            time.sleep(0.3)
            assert own.other_holder() is None
            assert loser.other_holder() is not None and is_superseded(run, attempt)
            assert is_superseded(run, loser.begin_attempt())
