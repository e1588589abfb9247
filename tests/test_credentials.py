"""Credentials are refused, or hidden, wherever they would be stored or printed."""

import argparse
import json
import logging
import re
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from mdsrec import credentials, files
from mdsrec.command import command_line
from mdsrec.command.logs import JsonLines, TextLines
from mdsrec.config.loading import load_experiment
from mdsrec.credentials import is_secret_name, redacted, remember_secrets, without_secret
from mdsrec.errors import InputError, cause_of, refuse_credentials
from training.__main__ import main as training

TOML = 'name = "a"\nroot = "ROOT"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'
SETTING = 'spark.settings={"spark.hadoop.fs.s3a.secret.key"="hunter2"}'


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_remembered", set())


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
        "s3://AKIA:12/hunter2@bucket",  # no port
        "https://hunter2@host/x",
        "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=hunter2",
        "jdbc:sqlserver://host;user=sa;password=hunter2",
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


PLACES = [  # for a message; the secret stands for {}
    "s3://AKIA:{}@bucket/x",
    "redis://:{}@host:6379",
    "https://{}@host/x",
    "user:{}@host:8265",
    "jdbc:oracle:thin:scott/{}@//host:1521/x",
    "https://host/x?token={}",
    "https://host/x?region=a&X-Amz-Signature={}&b=c",
    "https://host/x?{}",
    "https://host/x#access_token={}",
    "jdbc:sqlserver://host;password={}",
    "AWS_SECRET_ACCESS_KEY={}",
    "password={}",
    "fs.s3a.secret.key:{}",
    "accountKey={};x=y",
    "--api-key {} --x",
    "Authorization: Bearer 1{}",
    '{{"a": {{"password": "{}"}}}}',
    "{{'client_secret': '{}'}}",
    '"sasToken" = "{}"',
    "credentials = ['a', '{}']",
]
SECRETS = st.text(string.ascii_letters + string.digits + "/+_-.~!$%^*", min_size=8, max_size=40)


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=25, deadline=None)
@given(secret=SECRETS)
@example("hunter22")
@example("12345678")
@example("a/b+c%2Fd")
@example("1234/5678")
def test_a_secret_never_appears_in_a_message_about_it(place: str, secret: str) -> None:
    message = f"config.toml: cannot open {place.format(secret)} (it is not there): try again"
    assert secret not in redacted(message) and secret not in str(InputError(message))
    assert secret not in without_secret(place.format(secret))
    assert secret not in cause_of(f"Traceback:\n{message}")
    assert redacted(redacted(message)) == redacted(message)


OVERRIDES = [
    "spark.settings={}",
    'spark.settings=["{}"]',
    'spark.settings.a.b=["{}"]',
    'spark=["settings", "{}"]',
    "spark=password={}",
    "spark.settings.fs.s3a.secret.key:{}",
    "input.options.password: {}",
    "root:s3://AKIA:{}@bucket",
    "root=s3://AKIA:{}@bucket",
    'root=["s3://AKIA:{}@bucket"]',
    "root=hdfs://user:{}@host:9000/x",
    "input={}",
    'input.options.password=["{}"]',
    'features.text.encoder={{token="{}"}}',
    "features.text.encoder=https://user:{}@huggingface.co/x",
    "spark.master=spark://user:{}@host:7077",
    "spark.master=k8s://https://host?token={}",
    'train.tracking={{password="{}"}}',
    "root.password={}",
    "AWS_SECRET_ACCESS_KEY={}",
    'study.mdsrec.spark.settings.password="{}"',
    "input.snapshot=Server=host;Password={}",
]


@pytest.mark.parametrize("override", OVERRIDES)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=5, deadline=None
)
@given(secret=SECRETS)
@example("hunter22")
@example("12345678")
def test_a_wrong_override_never_repeats_its_secret(
    config: Path, override: str, secret: str
) -> None:
    assume(not re.match(r"\d+/", secret))  # `user:80/` is a host and its port
    with pytest.raises(InputError) as refused:
        load_experiment(config, [override.format(secret)])
    assert secret not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        '[input.options]\npassword = "hunter2',
        '[spark.settings]\n"a.b" = [\n  "hunter2",\n  oops\n]',
        "[spark.settings]\npassword: hunter2",
        "export DATABASE=hunter2!",
    ],
)
def test_a_broken_file_does_not_repeat_the_secret_of_its_line(config: Path, text: str) -> None:
    config.write_text(f"{config.read_text()}{text}\n")
    with pytest.raises(InputError, match="not a readable TOML file") as refused:
        load_experiment(config)
    assert "hunter2" not in str(refused.value)


def test_values_of_the_configuration_are_hidden_in_whatever_another_library_says(
    config: Path,
) -> None:
    """As an exception of Spark that repeats a part of an address."""
    words = ["spark.settings.a.b=some-value", "spark.settings.c.password=7654"]
    url = "jdbc:mysql://host/db?user=a&password=hunter2"
    table = f'format="table", source="jdbc", interactions=["a"], options={{url="{url}"}}'
    load_experiment(config, [*words, f"input={{{table}}}"])
    told = f"Access of a with hunter2 to {url} denied: some-value, 7654, local[2]"
    assert redacted(told) == "Access of a with ... to ... denied: ..., ..., local[2]"


def test_log_lines_and_tracebacks_repeat_no_secret_of_the_environment() -> None:
    remember_secrets({"MLFLOW_TRACKING_PASSWORD": "hunter2", "PWD": str(Path.cwd())})
    try:
        raise OSError("https://host/x?sig=abcdefgh: refused")
    except OSError as error:
        cause = (type(error), error, error.__traceback__)
    record = logging.LogRecord("etl", 20, "", 1, "%s at %s", ("hunter2", Path.cwd()), cause)
    for formatter in (TextLines("%(message)s"), JsonLines({})):
        line = formatter.format(record)
        assert "hunter2" not in line and "abcdefgh" not in line and "refused" in line
        assert str(Path.cwd()) in line
    assert json.loads(line)["message"] == f"... at {Path.cwd()}"


@pytest.mark.parametrize(
    "message",
    [
        "override 'lr': expected key=value, as in optim.lr=3e-4",
        "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (a file) as on the cluster",
        "features.text.max_tokens = 3: expected text",
        "input.columns.item_key = 3: expected text, in quotes",
        "spark.settings.fs.s3a.secret.key: expected text, in quotes",
        "hdfs://user@host:9000/data: no such file",
        "abfss://container@account.dfs.core.windows.net/x: no such file",
        "s3://bucket/x?region=us-east-1&endpoint_override=localhost:9000",
        'model.name = "package:Class": no module package',
        "unknown key token; the nearest key is root",
    ],
)
def test_a_message_without_a_secret_stays_as_it_is(message: str) -> None:
    assert redacted(message) == message


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("password", True),
        ("fs.s3a.secret.key", True),
        ("AWSAccessKeyId", True),
        ("SharedAccessKey", True),
        ("X-Amz-Signature", True),
        ("dbpasswd", True),
        ("sas", True),
        ("HF_TOKEN", True),
        ("max_tokens", False),
        ("tokenizer", False),
        ("monkey", False),
        ("item_key", False),
        ("keys", False),
    ],
)
def test_a_name_tells_whether_its_value_is_secret(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("features.text.encoder=https://user:hunter2@host/x", r"features\.text\.encoder: the URI"),
        ("input.snapshot=hf_abcdefghijklmnopqrst", r"input\.snapshot: the text"),
        ('study.mdsrec={"input.options.a"="b"}', r"set it in \[input\.options\]"),
    ],
)
def test_what_would_be_stored_with_a_run_is_refused(config: Path, override: str, key: str) -> None:
    source = 'input={format="table", source="x", interactions=["a"], snapshot="b"}'
    with pytest.raises(InputError, match=key) as refused:
        load_experiment(config, [source, override])
    assert "hunter2" not in str(refused.value) and str(refused.value).startswith("command line")
