"""The command lines of all stages: help, sub-commands, versions, paths and lists."""

import argparse
import shlex
import signal
import subprocess
import sys
import tomllib
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

import mdsrec
from etl.synthetic.__main__ import next_command
from evaluation.__main__ import main as evaluation
from evaluation.run import next_steps
from mdsrec.command import (
    DistinctValues,
    command_line,
    experiment_parser,
    path,
    stage_parser,
)
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError

ROOT = Path(__file__).parent.parent
STAGES = ("etl", "etl.synthetic", "training", "evaluation", "tuning", "cluster")
SUB_COMMANDS = {
    "etl": ["status", "clean", "inspect"],
    "evaluation": ["append", "recommend", "export", "compare"],
    "tuning": ["study"],
    "cluster": ["run", "submit", "preflight"],
}


def output_of(stage, *words, capsys):
    """Run a stage that ends at once, and return its exit code and everything it printed."""
    with pytest.raises(SystemExit) as ended:
        import_module(f"{stage}.__main__").main(words)
    printed = capsys.readouterr()
    return ended.value.code, printed.out + printed.err


@pytest.mark.parametrize(
    "words", [*STAGES, "mdsrec", "etl status", "evaluation compare", "cluster submit"]
)
def test_every_command_prints_its_version(words, capsys):
    stage, *rest = words.split()
    assert output_of(stage, *rest, "--version", capsys=capsys) == (
        0,
        f"mdsrec {mdsrec.__version__}\n",
    )


def test_the_version_is_written_at_one_place():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert content["project"]["dynamic"] == ["version"]
    assert content["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mdsrec.__version__"}
    assert f"\nversion: {mdsrec.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("stage", SUB_COMMANDS)
def test_a_help_lists_each_sub_command_on_its_own_line(stage, capsys):
    _, printed = output_of(stage, "--help", capsys=capsys)
    assert "--version" in printed
    listed = printed.partition("\nsub-commands")[2].splitlines()[1:]
    names = [line.split()[0] for line in listed if line.startswith("  ")]
    assert names == SUB_COMMANDS[stage]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluation recomend a.toml", "unknown sub-command recomend; did you mean recommend?"),
        ("etl staus a.toml", "unknown sub-command staus; did you mean status?"),
        ("tuning studies a.toml", "unknown sub-command studies; did you mean study?"),
        ("cluster submitt a.toml", "unknown sub-command submitt; did you mean submit?"),
        (
            "evaluation xyz",
            r"unknown sub-command xyz; choose from \[append, compare, export, recommend\]",
        ),
    ],
)
def test_an_unknown_sub_command_is_named_with_the_nearest_one(line, message):
    stage, *words = line.split()
    with pytest.raises(InputError, match=message):
        import_module(f"{stage}.__main__").main(words)


def test_a_file_without_suffix_is_a_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("staus").write_text("name = ")
    with pytest.raises(InputError, match="staus: not a readable TOML file"):
        import_module("etl.__main__").main(["staus"])


@pytest.mark.parametrize("stage", ["etl", "training", "evaluation", "tuning"])
def test_only_the_configuration_is_required(stage, capsys):
    code, printed = output_of(stage, capsys=capsys)
    assert code == 2
    assert printed.endswith("error: the following arguments are required: CONFIG\n")


def test_overrides_and_options_may_be_mixed():
    parser = experiment_parser("training", "")
    parser.add_argument("--fresh", action="store_true")
    words = ["a.toml", "x=1", "--fresh", "y=2"]
    assert parser.parse_intermixed_args(words).overrides == ["x=1", "y=2"]
    assert parser.parse_intermixed_args(["--fresh", "a.toml"]).overrides == []


def test_a_tilde_in_the_path_of_a_configuration_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    parsed = experiment_parser("training", "").parse_args(["~/a.toml"])
    assert parsed.config == "/home/ada/a.toml"


def test_a_path_becomes_absolute_and_a_uri_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert [path(text) for text in ("a/b/", "~/a", "/a/", "s3://b/a/", "/")] == [
        *(f"{tmp_path}/a/b", "/home/ada/a", "/a", "s3://b/a", "/"),
    ]


def test_a_path_with_credentials_is_refused_without_repeating_it(capsys):
    parser = stage_parser("x", "")
    parser.add_argument("--out", type=path)
    with pytest.raises(SystemExit):
        parser.parse_args(["--out", "s3://AKIA:hunter2@bucket/x"])
    printed = capsys.readouterr().err
    assert "argument --out: the URI contains credentials" in printed and "hunter2" not in printed


def test_the_paths_of_a_comparison_are_absolute(monkeypatch, tmp_path):
    compared = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evaluation.compare.compare_runs", lambda *given: compared.append(given))
    evaluation(["compare", "a", "--out", "page.html", "s3://b/c"])
    assert compared == [([f"{tmp_path}/a", "s3://b/c"], f"{tmp_path}/page.html")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tuning study a.toml --models sasrec mdsrec sasrec", "--models: sasrec is listed twice"),
        ("tuning study a.toml --models sasrec --models sasrec", "--models: sasrec is listed"),
        ("cluster run a.toml --stages etl training etl", "--stages: etl is listed twice"),
        ("evaluation compare runs/a runs/b ./runs/a/", "RUN: {cwd}/runs/a is listed twice"),
    ],
)
def test_a_repeated_value_of_a_list_is_refused(line, message, capsys):
    stage, *words = line.split()
    code, printed = output_of(stage, *words, capsys=capsys)
    assert code == 2
    assert f"error: argument {message.format(cwd=Path.cwd())}" in printed


def test_a_list_that_is_given_again_grows_and_replaces_its_default():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", nargs="+", action=DistinctValues, default=["etl", "training"])
    assert parser.parse_args([]).stages == ["etl", "training"]
    assert parser.parse_args(["--stages", "a", "b", "--stages", "etl"]).stages == ["a", "b", "etl"]


def test_the_demo_s_catalogue_in_another_folder_is_named_in_the_next_command(tmp_path):
    assert next_command(str(Path.cwd() / "data/demo")) == "python -m etl configs/demo.toml"
    folder = tmp_path / "two words"
    _, _, stage, config, *overrides = shlex.split(next_command(str(folder)))
    experiment = load_experiment(ROOT / config, overrides)
    paths = [
        *(*experiment.input.reviews, *experiment.input.metadata),
        *(experiment.features["image"].vectors, experiment.eval.pictures),
    ]
    assert stage == "etl" and {str(Path(at).parent) for at in paths} == {str(folder)}


def test_the_demo_s_catalogue_is_written_to_a_relative_folder(tmp_path):
    words = ["-m", "etl.synthetic", "raw", "--users", "20", "--items", "50"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "raw/reviews.json.gz").exists()
    assert f"{tmp_path}/raw/reviews.json.gz" in done.stdout.splitlines()[-1]


def test_the_demo_s_catalogue_is_not_written_to_a_uri():
    with pytest.raises(InputError, match="s3://b/raw: a URI: give a local folder"):
        import_module("etl.synthetic.__main__").main(["s3://b/raw"])


def test_the_next_commands_of_a_run_name_the_other_run_once():
    given = argparse.Namespace(config="a.toml", overrides=["name=shop-2", "optim.lr=1"])
    experiment = load_experiment(ROOT / "configs/demo.toml", ["root=/r", "name=shop-2"])
    suffix, override = experiment.model.simpler
    train, compare = next_steps(experiment, partial(command_line, "cluster run", given))
    name = f"name=shop-2-{suffix}"
    assert shlex.split(train)[3:] == ["run", "a.toml", "optim.lr=1", name, override]
    assert compare.endswith(f"compare /r/runs/shop-2 /r/runs/shop-2-{suffix}")


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_an_import_turns_into_an_error_is_no_mistake_of_ours(signum, code):
    script = f"""
import os
import signal
from mdsrec.command import run_command

def body(words):
    try:
        os.kill(os.getpid(), {int(signum)})
    except BaseException:
        raise ImportError("cannot load module more than once per process") from None

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
raise SystemExit(run_command("etl", body))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == code
    assert "run the same command again to go on" in ended.stderr
    assert "Traceback" not in ended.stderr
