"""What a job takes along, and what is said of how it ended."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.__main__ import main, submit_parser
from cluster.follow import Log, cause_in, follow
from cluster.package import pack, requirements
from cluster.submit import entrypoint, runtime_env, variable
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.packages import PACKAGES

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


def test_a_job_takes_packages_and_its_configuration_and_nothing_else(config, tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    pack(folder, config, [])
    assert {path.name for path in folder.iterdir()} == {*PACKAGES, "a.toml"}
    assert not list(folder.rglob("__pycache__"))


def test_a_job_takes_the_versions_that_it_is_to_install(config, tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    Path("constraints.txt").write_text("numpy==2.4.6\n")
    pack(folder, config, [])
    assert (folder / "constraints.txt").read_text() == "numpy==2.4.6\n"


def test_a_job_reads_the_experiment_that_the_submitter_reads(config, tmp_path, monkeypatch):
    folder = tmp_path / "job"
    folder.mkdir()
    here = load_experiment(config, ["optim.lr=1e-3", "eval.pictures=photos"])
    name, *overrides = pack(folder, config, ["optim.lr=1e-3", "eval.pictures=photos"])
    monkeypatch.chdir(folder)
    assert load_experiment(name, overrides) == here
    assert load_experiment(name, overrides).root == str(tmp_path / "home" / "tables")
    assert not any("s3://" in word or "spark" in word for word in overrides)  # say it as it is


def test_every_node_is_looked_at_before_any_work():
    line = entrypoint(["a.toml", "name=b c"], ["etl", "training"])
    assert line == "python -m cluster run a.toml 'name=b c' --stages preflight etl training"


def test_packages_are_installed_only_where_asked(config, tmp_path):
    assert not {"pip", "uv"} & runtime_env(str(tmp_path), None, {}).keys()
    with pytest.raises(InputError, match=r"--install needs constraints\.txt in this folder"):
        runtime_env(str(tmp_path), "pip", {})
    Path("constraints.txt").write_text("numpy==2.4.6\n")
    sent = runtime_env(str(tmp_path), "uv", {"A": "b"})
    assert sent["uv"] == requirements() and sent["env_vars"]["A"] == "b"
    assert {"torch", "numpy", "ray[default,train,tune]"} < set(sent["uv"])
    assert "pytest" not in sent["uv"] and sent["uv"][-1].startswith("-c ${")


def test_a_variable_is_given_or_taken_from_here(monkeypatch):
    monkeypatch.setenv("TAKEN", "x=y")
    assert variable("GIVEN=1=2") == ("GIVEN", "1=2")
    assert variable("TAKEN") == ("TAKEN", "x=y")
    with pytest.raises(InputError, match="--env ABSENT: not set here"):
        variable("ABSENT")


def test_a_mistake_in_the_configuration_is_found_before_anything_is_sent(config):
    with pytest.raises(InputError, match=r"unknown key modle; the nearest key is model"):
        main(["submit", config, "modle.dim=3", "--address", "http://nowhere:8265"])


def test_a_head_that_does_not_answer_is_one_line(config):
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9: nothing answers: give the head"):
        main(["submit", config, "--address", "http://127.0.0.1:9"])


def test_stages_are_those_that_there_are(config, capsys):
    assert submit_parser().parse_args([config, "--address", "x"]).stages == [
        "etl",
        "training",
        "evaluation",
    ]
    with pytest.raises(SystemExit):
        submit_parser().parse_args([config, "--address", "x", "--stages", "trainig"])
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
def test_the_cause_is_the_last_line_that_says_one(log, cause):
    found = cause_in(log)
    assert found is None if cause is None else found.startswith(cause)


class Flaky:
    """A job server whose connection breaks after each piece, and begins anew each time."""

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


def test_a_log_goes_on_where_the_connection_broke(monkeypatch, capsys):
    monkeypatch.setattr("cluster.follow.AGAIN", 0)
    log = Log()
    asyncio.run(log.show(Flaky("one\ntwo\nthree\n"), "job"))
    assert capsys.readouterr().out == "one\ntwo\nthree\n" == log.tail


NO_UV = "Failed to set up:\n  WARNING: retrying\n\nERROR: No matching distribution found for uv\n"


@pytest.mark.parametrize(
    ("message", "shown", "cause"),
    [
        (NO_UV, "Failed to set up:\nWARNING: retrying\n", "ERROR: No matching distribution found"),
        ("No room for it.", "", "No room for it."),
        (None, "", "no reason is known"),
    ],
)
def test_a_job_that_never_ran_says_why_in_its_last_line(message, shown, cause, capsys):
    from ray.job_submission import JobStatus

    never_ran = SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=None, message=message)
    client = SimpleNamespace(get_job_info=lambda _: never_ran, tail_job_logs=nothing)
    assert follow(client, "job", "http://head:8265") == 1
    said = capsys.readouterr()
    assert said.out == shown
    assert said.err.startswith(f"cluster submit: the job did not start: {cause}")
    assert len(said.err.splitlines()) == 1


async def nothing(_job):
    for text in ():
        yield text
