"""Credentials are refused, or hidden, wherever they would be stored or printed."""

import argparse
from pathlib import Path

import pytest

from mdsrec import files
from mdsrec.command import command_line
from mdsrec.config.loading import load_experiment
from mdsrec.credentials import without_secret
from mdsrec.errors import InputError, refuse_credentials
from training.__main__ import main as training

TOML = 'name = "a"\nroot = "ROOT"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'
SETTING = 'spark.settings={"spark.hadoop.fs.s3a.secret.key"="hunter2"}'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "a.toml"
    path.write_text(TOML.replace("ROOT", str(tmp_path)))
    return path


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hunter2@bucket/mdsrec",
        "s3://AKIA:hun/ter2@bucket",  # a secret key may contain a slash
        "hdfs://user:hunter2@host:9000/data",
        "s3://bucket/data?region=us-east-1&secret_key=hunter2",
        "abfss://container@account.dfs.core.windows.net/x?SAS_TOKEN=hunter2",
    ],
)
def test_a_uri_with_credentials_is_refused_without_repeating_them(uri: str) -> None:
    with pytest.raises(InputError, match="the URI contains credentials") as refused:
        refuse_credentials(uri)
    assert "hunter2" not in str(refused.value) and "AKIA:" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "/data/a:b@c",
        "s3://bucket/a:b/c@d",
        "s3://bucket/x?region=us-east-1&endpoint_override=localhost:9000",
        "hdfs://user@host:9000/data/a@b",
        "hdfs://host:9000/data/a@b",
        "abfss://container@account.dfs.core.windows.net/x",
    ],
)
def test_a_uri_without_credentials_is_accepted(uri: str) -> None:
    refuse_credentials(uri)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("root={}", "root"),
        ("input.reviews=['{}']", r"input.reviews\[0\]"),
        ("eval.pictures={}", "eval.pictures"),
        ("features.image.vectors={}", "features.image.vectors"),
    ],
)
def test_the_refusal_of_credentials_names_the_key(config: Path, key: str, named: str) -> None:
    with pytest.raises(InputError, match=f"{named}: the URI contains credentials") as refused:
        load_experiment(config, [key.format("s3://AKIA:hunter2@bucket/x")])
    assert "hunter2" not in str(refused.value)


def test_a_run_uri_with_credentials_is_refused() -> None:
    with pytest.raises(InputError, match="the URI contains credentials"):
        files.file_system("s3://AKIA:hunter2@bucket/runs/a")


def test_spark_settings_and_source_options_are_not_in_the_resolved_configuration(
    config: Path,
) -> None:
    """So neither trackers nor reports nor the files of a run have them."""
    table = 'format="table", source="jdbc", interactions=["a"], options={password="hunter2"}'
    experiment = load_experiment(config, [SETTING, f"input={{{table}}}"])
    assert experiment.spark.settings == {"spark.hadoop.fs.s3a.secret.key": "hunter2"}
    assert experiment.input.options == {"password": "hunter2"}
    assert "hunter2" not in str(experiment.resolved())


def test_the_printed_next_command_hides_spark_settings() -> None:
    inner = 'spark={settings={"a.secret"="hunter2"}, master="yarn"}'
    arguments = argparse.Namespace(config="a.toml", overrides=["name=b", SETTING, inner])
    assert command_line("training", arguments) == (
        "python -m training a.toml name=b spark.settings=... spark=..."
    )


def test_the_printed_next_command_has_the_last_value_of_each_key() -> None:
    words = ["name=a", "optim.lr=1", "over.toml", "name = b", "optim.lr=2"]
    arguments = argparse.Namespace(config="a.toml", overrides=words)
    assert command_line("training", arguments, "name=b-2", "model={}") == (
        "python -m training a.toml over.toml optim.lr=2 name=b-2 'model={}'"
    )


@pytest.mark.parametrize(
    "override",
    [
        'spark.settings={"a.secret"=["hunter2"]}',
        'spark.settings.a.secret=["hunter2"]',
        "spark.settings..secret=hunter2",
        'spark.settings={a.secret=["hunter2"]}',
        SETTING + "x",
    ],
)
def test_an_error_in_spark_settings_does_not_repeat_their_values(
    config: Path, override: str
) -> None:
    with pytest.raises(InputError, match=r"spark\.settings") as refused:
        load_experiment(config, [override])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ["--x=1", '--spark.settings.a.secret={"b" = "hunter2"}', "a.toml"],
        ["spark.settings.a.secret=hunter2", "a.toml"],
        ["a.toml", "--root=s3://AKIA:hunter2@bucket/x"],
    ],
)
def test_a_wrong_command_line_does_not_repeat_secrets(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, InputError)) as refused:
        training(words)
    assert "hunter2" not in capsys.readouterr().err + str(refused.value)


def test_a_list_that_is_written_as_text_does_not_repeat_credentials(config: Path) -> None:
    with pytest.raises(InputError, match="expected a list") as refused:
        load_experiment(config, ["input.reviews=s3://AKIA:hunter2@bucket/x"])
    assert "hunter2" not in str(refused.value)


def test_other_overrides_are_printed_unchanged() -> None:
    assert without_secret("root=/data/spark/settings=3") == "root=/data/spark/settings=3"
    assert without_secret("root=s3://bucket/x") == "root=s3://bucket/x"
    assert without_secret("spark.master=local[2]") == "spark.master=local[2]"
    assert without_secret("optim.lr=3e-4") == "optim.lr=3e-4"
