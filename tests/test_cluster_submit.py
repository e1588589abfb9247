"""The files of a submitted job, its log and its exit code."""

import asyncio
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.faults.servers import HEADS, server
from cluster.__main__ import main
from cluster.follow import JobLog, find_cause, follow, job_commands
from cluster.package import requirements, write_job_folder
from cluster.submit import entrypoint, parse_variable, runtime_env
from mdsrec import packages
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.packages import PACKAGES, copy_packages

TOML = """
name = "a"
root = "tables"
[input]
edition = "2018"
reviews = ["raw/reviews.json", "/mnt/more.json"]
[features.image]
vectors = "s3://bucket/image.parquet"
[spark.settings]
"spark.executor.memory" = "4g"
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    (home / "a.toml").write_text(TOML)
    (home / ".env").write_text("SECRET=1")
    (home / "data").mkdir()
    return "a.toml"


def test_a_job_contains_only_packages_and_its_configuration(config, tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    write_job_folder(folder, config, [])
    assert {path.name for path in folder.iterdir()} == {*PACKAGES, "a.toml"}
    assert not list(folder.rglob("__pycache__"))


PLANTED = (
    *(
        "etl/.env",
        "etl/key.pem",
        "mdsrec/rows.parquet",
        "mdsrec/config/mine.toml",
        "cluster/id_rsa",
    ),
    *("training/.git/config", "training/notes.ipynb", "training/secrets/a.py", "etl/.hidden.py"),
    *("tuning/my-notes.py", "evaluation/report/style.css.orig", "evaluation/__pycache__/a.pyc"),
)


def test_a_job_holds_our_modules_and_nothing_else_that_lies_in_our_folders(tmp_path, monkeypatch):
    for name in PACKAGES:
        shutil.copytree(packages.SOURCE / name, tmp_path / "source" / name)
    monkeypatch.setattr(packages, "SOURCE", tmp_path / "source")
    for name in PLANTED:
        planted = tmp_path / "source" / name
        planted.parent.mkdir(exist_ok=True)
        planted.write_text("hunter2")
    copy_packages(tmp_path / "job")
    files = [path for path in (tmp_path / "job").rglob("*") if path.is_file()]
    assert not [path for path in files if "hunter2" in path.read_text()]
    assert {path.suffix for path in files} == {".py", ".css"}
    modules = {path.relative_to(tmp_path / "job") for path in files}
    assert Path("evaluation/report/style.css") in modules
    assert Path("training/models/mdsrec/model.py") in modules


def test_the_command_of_a_job_repeats_no_override(config, tmp_path):
    """Ray's dashboard shows the command."""
    (tmp_path / "job").mkdir()
    words = ["spark.settings.a.secret=hunter2", "optim.lr=1e-3"]
    arguments = write_job_folder(tmp_path / "job", config, words)
    assert entrypoint(arguments, ["etl"]) == ("python -m cluster run a.toml --stages preflight etl")
    job = load_experiment(tmp_path / "job" / "a.toml")
    assert job.spark.settings["a.secret"] == "hunter2" and job.optim.lr == 1e-3


def test_a_job_contains_the_constraints_for_its_installation(config, tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    Path("constraints.txt").write_text("numpy==2.4.6\n")
    write_job_folder(folder, config, [])
    assert (folder / "constraints.txt").read_text() == "numpy==2.4.6\n"


def test_a_job_loads_the_same_experiment_as_the_submitter(config, tmp_path, monkeypatch):
    folder = tmp_path / "job"
    folder.mkdir()
    here = load_experiment(config, ["optim.lr=1e-3", "eval.pictures=photos"])
    name, *overrides = write_job_folder(folder, config, ["optim.lr=1e-3", "eval.pictures=photos"])
    monkeypatch.chdir(folder)
    assert load_experiment(name, overrides) == here
    assert load_experiment(name, overrides).root == str(tmp_path / "home" / "tables")
    assert not any("s3://" in word or "spark" in word for word in overrides)  # absolute already


def test_a_job_names_local_models_and_pictures_by_absolute_paths(config, tmp_path, monkeypatch):
    """The cluster has the same folders, but the job runs in another one."""
    home, job = tmp_path / "home", tmp_path / "job"
    (home / "mini").mkdir()
    job.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    text = 'features.text={encoder="mini"}'
    vision = 'features.image={encoder="~/clip", images="\U0001f600"}'
    name, *overrides = write_job_folder(job, config, [text, vision])
    monkeypatch.chdir(job)
    features = load_experiment(name, overrides).features
    assert features["text"].encoder == str(home / "mini")
    assert features["image"].encoder == str(tmp_path / "clip")
    assert features["image"].images == str(home / "\U0001f600")


def test_the_preflight_comes_before_the_stages():
    line = entrypoint(["a.toml", "name=b c"], ["etl", "training"])
    assert line == "python -m cluster run a.toml 'name=b c' --stages preflight etl training"


def test_packages_are_installed_only_on_request(config, tmp_path):
    assert not {"pip", "uv"} & runtime_env(str(tmp_path), None, {}).keys()
    with pytest.raises(InputError, match=r"--install needs constraints\.txt in this folder"):
        runtime_env(str(tmp_path), "pip", {})
    Path("constraints.txt").write_text("numpy==2.4.6\n")
    runtime = runtime_env(str(tmp_path), "uv", {"A": "b"})
    assert runtime["uv"] == requirements() and runtime["env_vars"]["A"] == "b"
    assert {"torch", "numpy", "ray[default,train,tune]"} < set(runtime["uv"])
    assert "pytest" not in runtime["uv"] and runtime["uv"][-1].startswith("-c ${")


def test_a_variable_has_the_given_value_or_that_of_this_environment(monkeypatch):
    monkeypatch.setenv("INHERITED", "x=y")
    assert parse_variable("GIVEN=1=2") == ("GIVEN", "1=2")
    assert parse_variable("INHERITED") == ("INHERITED", "x=y")
    with pytest.raises(InputError, match="--env ABSENT: not set here"):
        parse_variable("ABSENT")


def test_a_mistake_in_the_configuration_is_found_before_anything_is_sent(config):
    with pytest.raises(InputError, match=r"unknown key modle; the nearest key is model"):
        main(["submit", config, "modle.dim=3", "--address", "http://nowhere:8265"])


def test_a_head_that_does_not_answer_is_a_one_line_error(config):
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9: no answer: give the head"):
        main(["submit", config, "--address", "http://127.0.0.1:9"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("accepts and is silent", "no answer: give the head"),
        ("drips headers", "no answer: give the head"),
        ("drips a body", "no answer: give the head"),
        ("a page", "what answers is not Ray: give the head"),
        ("another JSON", "what answers is not Ray"),
        ("a loop of redirects", "no answer"),
    ],
)
def test_a_head_that_is_not_ray_ends_in_a_line_within_its_deadline(
    config, monkeypatch, name, message
):
    monkeypatch.setattr("cluster.connection.CONNECT_SECONDS", 0.5)
    start = time.monotonic()
    with server(HEADS[name]) as address, pytest.raises(InputError, match=message):
        main(["submit", config, "--address", f"http://{address}"])
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "address", ["ftp://h:1", "ray://h:1", "os://h:1", "h:8265", "http://", "x"]
)
def test_an_address_of_another_scheme_is_refused(config, address):
    with pytest.raises(InputError, match=f"^--address {address}: not an address: write http://"):
        main(["submit", config, "--address", address])


def test_neither_an_address_nor_a_variable_repeats_a_secret(config, monkeypatch, capsys):
    for address in (
        "http://user:hunter2@127.0.0.1:9",
        "user:hunter2@h:9",
        "http://h:x?key=hunter2",
    ):
        with pytest.raises(InputError) as refused:
            main(["submit", config, "--address", address])
        assert "hunter2" not in str(refused.value)
    for variable in ("TOKEN:hunter2", "hunter2"):
        with pytest.raises(InputError, match=r"--env \.\.\.: not set here") as refused:
            parse_variable(variable)
        assert "hunter2" not in str(refused.value)
    assert "hunter2" not in job_commands("job", "http://user:hunter2@h:8265")


def test_the_stages_by_default_and_an_unknown_one(config, monkeypatch, capsys):
    submitted = []
    monkeypatch.setattr("cluster.submit.submit", lambda *given, wait: submitted.append(given))
    with pytest.raises(SystemExit):
        main(["submit", config, "--address", "x"])
    assert submitted == [(config, [], "x", ["etl", "training", "evaluation"], None, {})]
    with pytest.raises(SystemExit):
        main(["submit", config, "--address", "x", "--stages", "trainig"])
    assert len(submitted) == 1
    assert "invalid choice: 'trainig'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("etl: x.json: no such file\n\ncluster: etl failed with exit code 2\n", "etl: x.json: "),
        ("Traceback:\n  File\nModuleNotFoundError: No module named 'x'\n\n", "ModuleNotFound"),
        ("a.b.WorkerGroupError: it died\nmore\n", "a.b.WorkerGroupError: it died"),
        ("preflight: a\npreflight: b\ncluster: preflight failed with exit code 2", "preflight: b"),
        ("2026-01-01 12:00:00 etl: 3 rows\nErrors are few\n", None),
    ],
)
def test_the_cause_is_the_last_line_that_names_one(log, cause):
    found = find_cause(log)
    assert found is None if cause is None else found.startswith(cause)


class FlakyClient:
    """A client whose stream of the log starts again each time, and breaks two characters later."""

    def __init__(self, log):
        self.log, self.calls = log, 0

    async def tail_job_logs(self, _job):
        self.calls += 1
        yield self.log[: 2 * self.calls]
        raise RuntimeError("closed")

    def get_job_info(self, _job):
        from ray.job_submission import JobStatus

        class Details:
            status = JobStatus.SUCCEEDED if 2 * self.calls >= len(self.log) else JobStatus.RUNNING

        return Details


def test_a_log_continues_where_the_connection_broke(monkeypatch, capsys):
    monkeypatch.setattr("cluster.follow.RETRY_INTERVAL", 0)
    log = JobLog()
    asyncio.run(log.print_until_end(FlakyClient("one\ntwo\nthree\n"), "job"))
    assert capsys.readouterr().out == "one\ntwo\nthree\n" == log.tail


NO_UV = "Failed to set up:\n  WARNING: retrying\n\nERROR: No matching distribution found for uv\n"


@pytest.mark.parametrize(
    ("message", "shown", "cause"),
    [
        (NO_UV, "Failed to set up:\nWARNING: retrying\n", "ERROR: No matching distribution found"),
        ("No room for it.", "", "No room for it."),
        (None, "", "no reason given"),
    ],
)
def test_the_last_line_of_a_job_that_never_ran_is_the_reason(message, shown, cause, capsys):
    from ray.job_submission import JobStatus

    never_ran = SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=None, message=message)
    client = SimpleNamespace(get_job_info=lambda _: never_ran, tail_job_logs=no_text)
    assert follow(client, "job", "http://head:8265") == 1
    printed = capsys.readouterr()
    assert printed.out == shown
    assert printed.err.startswith(f"cluster submit: the job did not start: {cause}")
    assert len(printed.err.splitlines()) == 1


async def no_text(_job):
    for text in ():
        yield text
