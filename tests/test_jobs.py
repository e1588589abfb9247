"""Jobs that share storage: one writes a thing at a time, and what one reads stays what it was."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mdsrec import files, schema, tables
from mdsrec.errors import InputError
from mdsrec.jobs import lease, promises
from mdsrec.jobs.lease import Lease, check_leases, hold
from mdsrec.jobs.process import has_ended, this_process
from mdsrec.jobs.promises import ReplacedError, promised
from mdsrec.tables import Recipe

ONE, TWO = Recipe({"k": 1}, {}), Recipe({"k": 2}, {})
FOREVER = 600.0


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 0.5)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)


@pytest.fixture(scope="module")
def ended() -> dict[str, object]:
    """A process of this machine that has ended."""
    program = "import json; from mdsrec.jobs.process import *; print(json.dumps(this_process()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return dict(json.loads(found.stdout))


def test_a_process_is_known_to_have_ended_only_on_its_own_machine(
    ended: dict[str, object],
) -> None:
    assert has_ended(ended) and not has_ended(this_process())
    assert not has_ended({**ended, "machine": "another boot"})
    assert not has_ended({"host": "any", "pid": ended["pid"]})  # of an older version
    assert has_ended({**this_process(), "started": 1})  # its pid belongs to another one now


def test_the_lease_of_a_process_that_has_ended_here_is_free_at_once(
    ended: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", FOREVER)
    file = tmp_path / "items.writer"
    file.write_text(json.dumps({**ended, "token": "old", "count": 3}))
    with hold(Lease([str(file)]), "writing"):
        assert json.loads(file.read_text())["token"] != "old"
    assert not file.exists()


def test_the_lease_of_a_dead_process_elsewhere_is_free_when_its_counter_stands_still(
    tmp_path: Path,
) -> None:
    """Also where it left several: all have its id."""
    files, started = [tmp_path / f"{n}.writer" for n in range(9)], time.monotonic()
    for file in files:
        file.write_text('{"host": "node-2", "pid": 7, "token": "old", "count": 3}')
    with hold(Lease([*map(str, files)]), "writing", waits=True):
        assert 0.5 <= time.monotonic() - started < 9 * 0.5


def test_a_job_waits_for_the_one_that_writes_one_of_its_tables(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Lease([str(tmp_path / f"{name}.writer") for name in ("items", "sequences")])
    second = Lease([str(tmp_path / f"{name}.writer") for name in ("sequences", "cooccurrence")])
    order = []

    def wait() -> None:
        with hold(second, "writing tables", waits=True):
            order.append("second")

    with hold(first, "writing tables", waits=True):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.8)  # longer than a dead one would be waited for
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    [line] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line.startswith(f"process {this_process()['pid']} on ") and " UTC) is writing " in line
    assert line.endswith(": waiting for it to end")


def test_jobs_that_start_at_the_same_moment_hold_a_table_one_after_the_other(
    tmp_path: Path,
) -> None:
    barrier, inside, most = threading.Barrier(4), [0], [0]
    names = ["abc", "bcd", "cda", "dab"]

    def work(mine: str) -> None:
        barrier.wait()
        own = Lease([str(tmp_path / f"{name}.writer") for name in mine])
        with hold(own, "writing", waits=True):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.2)
            inside[0] -= 1

    jobs = [threading.Thread(target=work, args=(mine,)) for mine in names]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert most == [1] and not list(tmp_path.iterdir())


def write(uri: str, recipe: Recipe) -> tables.Manifest:
    return tables.write_table(uri, [], schema.CENTERS, recipe)


def test_a_job_that_lost_its_lease_commits_nothing(tmp_path: Path) -> None:
    uri, file = str(tmp_path / "items"), tmp_path / "items.writer"
    write(uri, ONE)
    with hold(Lease([str(file)]), "writing"):
        check_leases()
        other = {"host": "node-2", "pid": 7, "since": "noon", "token": "new", "count": 0}
        file.write_text(json.dumps(other))
        line = r"process 7 on node-2 \(since noon\) has taken over .*: it ends without a write"
        with pytest.raises(InputError, match=line):
            write(uri, TWO)
        file.unlink()  # as the other one does at its end
        with pytest.raises(InputError, match="another job, which has ended, has taken over"):
            write(uri, TWO)
    assert tables.open_table(uri).fingerprint == ONE.fingerprint
    assert not file.exists()
    check_leases()


def test_a_table_is_opened_with_the_promised_fingerprint_only(tmp_path: Path) -> None:
    uri = str(tmp_path / "sequences")
    write(uri, ONE)
    with promised({uri: ONE.fingerprint}):
        assert tables.open_table(uri).fingerprint == ONE.fingerprint
        write(uri, ONE)  # the same table again
        assert promises.current() == {uri: ONE.fingerprint}
    write(uri, TWO)
    both = f"{ONE.fingerprint[-8:]}, it is now {TWO.fingerprint[-8:]}"
    with (
        pytest.raises(ReplacedError, match=f"{uri}: replaced by another job .*{both}"),
        promised({uri: ONE.fingerprint}),
    ):
        tables.open_table(uri)
    assert promises.current() == {}
    assert tables.open_table(uri).fingerprint == TWO.fingerprint


def test_a_table_that_was_read_is_checked_again_before_a_commit(tmp_path: Path) -> None:
    sequences, items = str(tmp_path / "sequences"), str(tmp_path / "items")
    write(sequences, ONE)
    with promised({sequences: ONE.fingerprint}):
        tables.open_table(sequences)
        as_another_process_does(sequences)
        with pytest.raises(ReplacedError, match=f"{sequences}: replaced"):
            write(items, ONE)
    assert tables.read_manifest(items) is None


def as_another_process_does(uri: str) -> None:
    """Replace the table at `uri`, without what this process promised."""
    manifest = f"{uri}/{tables.MANIFEST}"
    files.write_json(manifest, {**files.read_json(manifest), "fingerprint": TWO.fingerprint})


def test_an_error_whose_reason_is_a_replaced_table_says_so(tmp_path: Path) -> None:
    uri = str(tmp_path / "sequences")
    write(uri, ONE)
    with pytest.raises(ReplacedError) as raised, promised({uri: ONE.fingerprint}):
        tables.open_table(uri)
        as_another_process_does(uri)
        raise FileNotFoundError("part-00000.parquet")
    assert isinstance(raised.value.__cause__, FileNotFoundError)
    with pytest.raises(FileNotFoundError), promised({uri: TWO.fingerprint}):
        tables.open_table(uri)
        raise FileNotFoundError("something else")


def test_a_promise_within_another_one_must_be_the_same(tmp_path: Path) -> None:
    uri = str(tmp_path / "sequences")
    with promised({uri: "one"}), promised({uri: "one", "other": "two"}):
        assert promises.current() == {uri: "one", "other": "two"}
    with promised({uri: "one"}):
        with pytest.raises(ReplacedError), promised({uri: "two"}):
            pass
        assert promises.current() == {uri: "one"}


def test_weights_that_were_replaced_or_deleted_are_not_the_promised_ones(tmp_path: Path) -> None:
    file = tmp_path / "best.safetensors"
    file.write_bytes(b"one")
    before = promises.identity(str(file))
    assert before is not None
    with promised({str(file): before}):
        promises.check_file(str(file))
        file.write_bytes(b"other")
        with pytest.raises(ReplacedError, match="replaced by another job"):
            promises.check_file(str(file))
        file.unlink()
        with pytest.raises(ReplacedError, match="it is gone"):
            promises.check_file(str(file))
