"""Whatever the outside does to a command is one line and exit code 2; only our bugs have more."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.exceptions import OutOfMemoryError

from mdsrec import credentials, files
from mdsrec.command import going_on, run_command
from mdsrec.command.failures import REMEDIES, causes, outside_cause
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths

ROOT = Path(__file__).parent.parent
FULL = "No space left on device: free some disk space, then run the same command again"


@pytest.fixture(autouse=True)
def handlers():
    """Restore the handlers that `run_command` installs."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def ended(error, capsys):
    """Run a command that raises `error` -> its exit code and standard error."""

    def body(_):
        raise error

    code = run_command("etl", body)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("code", REMEDIES, ids=errno.errorcode.get)
def test_an_error_of_the_system_is_one_line_with_its_file_and_a_remedy(code, capsys):
    error = OSError(code, os.strerror(code), "/data/a.parquet")
    expected = f"etl: /data/a.parquet: {os.strerror(code)}: {REMEDIES[code]}\n"
    assert ended(error, capsys) == (2, expected)


def test_an_error_of_arrow_has_the_number_of_the_system_and_the_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        files.write_bytes(f"{tmp_path}/file/below", b"")
    code, line = ended(error.value, capsys)
    assert code == 2 and line.startswith(f"etl: {tmp_path}/file") and "Traceback" not in line


SPARK = """An error occurred while calling o74.parquet.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 1.0 failed
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:2898)
Caused by: java.io.IOException: No space left on device
\tat java.base/sun.nio.ch.UnixFileDispatcherImpl.write0(Native Method)
"""
WORKER = """Job aborted due to stage failure:
Traceback (most recent call last):
  File "/x/etl/catalogue/raw.py", line 7, in numbered_lines
mdsrec.errors.InputError: /raw/a.json: the file is empty

\tat org.apache.spark.api.python.BasePythonRunner
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SPARK, FULL),
        (WORKER, "/raw/a.json: the file is empty"),
        (
            "x\njava.io.FileNotFoundException: /r/part.parquet (Permission denied)",
            "/r/part.parquet: Permission denied: give this user the right, or choose another path",
        ),
        (
            "x\njava.lang.OutOfMemoryError: Java heap space",
            "Spark ran out of memory: raise spark.driver_memory",
        ),
        (
            "x\njava.lang.RuntimeException: file:/r/part.parquet is not a Parquet file",
            "/r/part.parquet: damaged Parquet: restore the file, or delete its table and run the "
            "ETL again",
        ),
    ],
)
def test_a_cause_in_the_text_of_spark_is_found(text, expected):
    assert outside_cause(RuntimeError(text)) == expected


def test_damaged_parquet_is_named_as_such(tmp_path, capsys):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(pa.ArrowInvalid) as error:
        pq.read_table(tmp_path / "a.parquet")
    code, line = ended(error.value, capsys)
    assert code == 2 and "damaged Parquet: restore the file" in line and "Traceback" not in line


def test_memory_that_ran_out_beside_ray_is_no_mistake_of_ours():
    text = (
        "7 worker(s) were killed due to the node running low on memory. Memory on the node "
        "(IP: 192.0.2.2, ID: f6c5) was 22.66GB used / 23.54GB limit (0.96)\nOOM kill reason: x"
    )
    assert outside_cause(OutOfMemoryError(text)) == (
        "a machine ran out of memory, so Ray ended processes there: free some, or lower "
        "train.batch_size or eval.user_batch, then run the same command again"
    )


def test_a_cause_is_found_below_the_errors_of_ray_and_ray_train():
    class TaskError(Exception):
        cause = OSError(errno.ENOSPC, "No space left on device")

    group, controller = RuntimeError("2 workers failed"), RuntimeError("failed")
    group.worker_failures = {0: TaskError("ray::worker() died"), 1: ValueError("x")}
    controller.controller_failure = group
    assert outside_cause(controller) == FULL
    assert list(causes(controller))[-2:] == [group, controller]


def test_a_real_error_of_a_ray_task_has_its_cause():
    from ray.exceptions import RayTaskError

    inner = RayTaskError("write", "a traceback", PermissionError(errno.EACCES, "x", "/r/a"))
    found = outside_cause(inner.as_instanceof_cause())
    assert found == f"/r/a: Permission denied: {REMEDIES[errno.EACCES]}"


def test_a_mistake_of_ours_has_a_traceback_and_says_what_to_send(capsys):
    code, text = ended(KeyError("weights"), capsys)
    assert code == 1
    assert text.startswith("Traceback (most recent call last):\n") and "KeyError: 'weights'" in text
    assert "this is a mistake of mdsrec, not yours: please report it" in text.splitlines()[-1]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cannot reach hdfs://user:hunter22@host/x"),
        OSError(errno.EACCES, "denied", "hdfs://user:hunter22@host/x"),
        RuntimeError("a task failed:\nmdsrec.errors.InputError: hunter22 is refused\n"),
    ],
)
def test_neither_a_traceback_nor_a_line_repeats_a_secret(error, capsys, monkeypatch):
    """A worker of Spark does not know the secrets of the driver, which it may name."""
    monkeypatch.setattr(credentials, "_remembered", set())
    credentials.remember_secrets({"password": "hunter22"})
    _, output = ended(error, capsys)
    assert output.startswith(("etl: ", "Traceback")) and "hunter22" not in output


def test_an_error_that_was_handled_before_a_mistake_of_ours_does_not_hide_it(capsys):
    try:
        try:
            raise FileNotFoundError(errno.ENOENT, "x", "/a")
        except FileNotFoundError:
            raise KeyError("ours")  # noqa: B904 - the context is the point
    except KeyError as error:
        code, text = ended(error, capsys)
    assert code == 1 and "a mistake of mdsrec" in text


def test_an_error_with_a_break_in_its_text_is_still_one_line(capsys):
    assert ended(InputError("a\nb: no such file"), capsys) == (2, "etl: a b: no such file\n")


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(130), 130, "interrupted"),
        (SystemExit(143), 143, "terminated"),
    ],
)
def test_a_signal_is_one_line_that_says_how_to_go_on(error, code, word, capsys):
    line = f"etl: {word}: what is finished is kept: run the same command again to go on\n"
    assert ended(error, capsys) == (code, line)


def test_a_command_that_goes_on_in_another_way_says_so(capsys):
    def body(_):
        with going_on("add --resume"):
            raise KeyboardInterrupt

    assert run_command("tuning", body) == 130
    assert capsys.readouterr().err == "tuning: interrupted: add --resume\n"


@pytest.mark.parametrize(
    "content", [b"", b'{"a": ', b"[1]", b"null", b"\0\0", b"\xff", b'{"a":' * 100_000]
)
def test_a_damaged_json_file_is_named(tmp_path, content):
    (tmp_path / "history.json").write_bytes(content)
    with pytest.raises(InputError, match=r"history\.json: damaged \(.*\): restore it, or delete"):
        files.read_json(f"{tmp_path}/history.json")


EPOCH = {"epoch": 0, "ndcg@10": 0.5, "recall@10": 0.5}
HISTORY = {"epochs": [EPOCH], "best_epoch": 0, "num_parameters": 7, "finished": True}


@pytest.mark.parametrize(
    "edit",
    [
        {},  # no key at all
        {"epochs": 1},
        {"epochs": [{"epoch": 0}]},
        {"epochs": [EPOCH | {"loss": "x"}]},
        {"best_epoch": 1},
        {"best_epoch": "0"},
        {"num_parameters": None},
    ],
)
def test_an_edited_history_is_named(tmp_path, edit):
    paths = RunPaths(str(tmp_path))
    Path(paths.history).write_text(json.dumps(HISTORY))
    assert paths.read_history() == HISTORY
    Path(paths.history).write_text(json.dumps({**HISTORY, **edit} if edit else {}))
    with pytest.raises(InputError, match=r"history\.json: damaged \(not the epochs of a run\)"):
        paths.read_history()


def refusal(*words):
    with pytest.raises(InputError) as error:
        load_experiment(*words)
    return str(error.value)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=" + "9" * 5000, "the value of an override: a number has too many digits"),
        ("seed=0x" + "f" * 5000, "seed = ...: expected"),
        ("name=" + "[" * 5000, "the value of an override: its values are nested too deeply"),
        ('root="a\\u0000b"', "root: the path holds a NUL character"),
        ("root=~nosuchuser/x", "root: ~nosuchuser/x: no such home folder"),
        ("optim.lr=1e400", "optim.lr = Infinity: expected"),
        ("train.timeout_minutes=1e30", "train.timeout_minutes = 1e+30: expected 5256000 at most"),
        ("tune.hours=1e30", "tune.hours = 1e+30: expected 87600 at most"),
        ("name=" + "x" * 5000, "...: expected 200 characters at most"),
    ],
)
def test_a_value_beyond_every_limit_is_one_short_line(word, expected):
    line = refusal(ROOT / "configs" / "demo.toml", [word])
    assert expected in line and len(line) < 500 and "\n" not in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("seed = " + "9" * 5000, "a number has too many digits"),
        ("a = " + "[" * 3000 + "]" * 3000, "its values are nested too deeply"),
        ("a = " + "{a=" * 3000 + "1" + "}" * 3000, "its values are nested too deeply"),
    ],
)
def test_a_configuration_beyond_the_limits_of_python_is_named(tmp_path, content, expected):
    (tmp_path / "a.toml").write_text(content)
    assert refusal(f"{tmp_path}/a.toml") == (
        f"{tmp_path}/a.toml: not a readable TOML file: {expected}"
    )


def test_the_level_of_the_log_may_be_spelled_in_any_way_and_an_unknown_one_is_named():
    words = [sys.executable, "-m", "etl", "status", "none.toml"]
    for level, expected in (("debug", "no such configuration file"), ("loud", "unknown level")):
        environment = os.environ | {"MDSREC_LOG": level}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and expected in done.stderr.splitlines()[-1]


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    uri = f"{tmp_path}/a.json"
    files.write_bytes(uri, b"old")

    def full(stream):
        stream.write(b"half")
        raise pa.ArrowIOError("no space")

    with pytest.raises(OSError):
        files.write_stream(uri, full)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert files.read_bytes(uri) == b"old"
