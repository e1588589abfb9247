"""Of two drivers that would train the same run, one does; a dead one's place is free."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mdsrec.errors import InputError
from training.lifecycle import lease
from training.lifecycle.lease import Attempt, is_given_up, only_writer, writer_uri


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "SILENT", 0.5)
    monkeypatch.setattr(lease, "SETTLE", 0.5)
    return str(tmp_path / "run")


def test_a_second_driver_is_refused_by_the_name_of_the_first(run: str) -> None:
    with only_writer(run) as own:
        assert own.other() is None
        refused = re.escape(f"{run}: process ") + r"\d+ on \S+ trains it: wait for it"
        with pytest.raises(InputError, match=refused), only_writer(run):
            pass
    with only_writer(run):
        pass
    assert not Path(writer_uri(run)).exists()


def test_what_a_dead_driver_left_is_taken_over(run: str) -> None:
    left = {"host": "gone", "pid": 7, "token": "old", "count": 3}
    Path(writer_uri(run)).write_text(json.dumps(left))
    with only_writer(run) as own:
        assert is_given_up(run, Attempt("old", 1)) and own.other() is None


def test_a_torn_sign_is_nobodys(run: str) -> None:
    for torn in ("", "{", "[]", '{"pid": 7}'):
        Path(writer_uri(run)).write_text(torn)
        assert not is_given_up(run, Attempt("own", 1))
        with only_writer(run) as own:
            assert own.other() is None


def test_of_drivers_that_start_at_the_same_moment_one_keeps_the_run(run: str) -> None:
    together, refused, began = threading.Barrier(4), [], []
    ended = threading.Event()

    def drive() -> None:
        together.wait()
        try:
            with only_writer(run) as own:
                began.append(own)
                ended.wait()
        except InputError as error:
            refused.append(str(error))

    drivers = [threading.Thread(target=drive) for _ in range(4)]
    for driver in drivers:
        driver.start()
    _within(20, lambda: len(refused) + len(began) == 4)
    _within(20, lambda: sum(own.other() is None for own in began) == 1)
    ended.set()
    for driver in drivers:
        driver.join()


def _within(seconds: float, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_driver_that_was_away_leaves_the_run_to_the_one_that_took_over(run: str) -> None:
    with only_writer(run) as own:
        other = {"host": "other", "pid": 7, "token": "new", "count": 0}
        Path(writer_uri(run)).write_text(json.dumps(other))
        time.sleep(0.3)
        assert own.other() == other
        assert is_given_up(run, own.begin_attempt())
    assert json.loads(Path(writer_uri(run)).read_text()) == other


def test_workers_of_an_attempt_that_was_given_up_find_the_next_one(run: str) -> None:
    with only_writer(run) as own:
        first = own.begin_attempt()
        assert not is_given_up(run, first)
        second = own.begin_attempt()
        time.sleep(0.3)  # some counts
        assert is_given_up(run, first)
        assert not is_given_up(run, second)


def test_an_attempt_begins_while_storage_is_out_of_reach(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_writer(run) as own:
        first = own.begin_attempt()
        with monkeypatch.context() as outage:
            outage.setattr(lease.files, "write_json", _unreachable)
            second = own.begin_attempt()
        assert not is_given_up(run, second)
        _within(5, lambda: is_given_up(run, first))


def _unreachable(*_: object) -> None:
    raise OSError("no answer")


def test_a_living_driver_gives_way_to_one_that_takes_over(run: str) -> None:
    with only_writer(run) as given_up:
        attempt = given_up.begin_attempt()
        with only_writer(run, takes_over=True) as own:
            time.sleep(0.3)
            assert own.other() is None
            assert given_up.other() is not None and is_given_up(run, attempt)
            assert is_given_up(run, given_up.begin_attempt())
