"""What people and machines can see of a run: log lines, Prometheus metrics, the dashboard."""

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import ray
import torch
from gloo import on_ranks
from prometheus_client.parser import text_string_to_metric_families
from small_dataset import NUM_USERS, small_experiment, write_dataset

from evaluation.run import evaluate
from mdsrec import files
from mdsrec.config.loading import experiment_from
from mdsrec.logs import FORMAT_KEY, JsonLines
from mdsrec.table_names import run_uri
from training.distributed.ray_session import ray_session
from training.gauges import GAUGES
from training.lifecycle import signals
from training.loop import train
from training.run import fit

ROOT = Path(__file__).parent.parent
USERS = "ray_mdsrec_users_total"
SECRET = "hunter2hunter2"
NAMES = {f"ray_{name}" for name, _ in GAUGES.values()} | {USERS}


def record(message: str, *values: Any, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("etl").makeRecord(
        "etl", logging.INFO, "file", 1, message, values, None, extra=extra
    )


def test_a_json_line_says_when_whose_and_what() -> None:
    figures = {"table": "items", "rows": 40}
    line = JsonLines({"run": "a", "rank": 1}).format(record("%s: built", "items", figures=figures))
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found.pop("time"))
    assert found == {
        "level": "info",
        "logger": "etl",
        "run": "a",
        "rank": 1,
        "message": "items: built",
        "table": "items",
        "rows": 40,
    }


def test_a_traceback_stays_in_its_json_line() -> None:
    try:
        raise OSError("full\ndisk")
    except OSError:
        told = record("failed")
        told.exc_info = sys.exc_info()
    line = JsonLines({}).format(told)
    assert "\n" not in line
    assert "OSError: full\ndisk" in json.loads(line)["traceback"]


@pytest.mark.parametrize(
    ("wanted", "code", "shown"),
    [
        ("json", 0, '"logger": "training", "run": "a", "message": "50%"'),
        ("text", 0, " training: 50%"),
        ("xml", 2, "stage: MDSREC_LOG_FORMAT = xml: set it to text or json"),
    ],
)
def test_a_command_logs_in_the_format_that_is_asked_for(wanted: str, code: int, shown: str) -> None:
    program = (
        "import logging, sys; from mdsrec.command import run_command; "
        "from mdsrec.logs import log_lines; "
        "body = lambda _: (log_lines('a'), logging.getLogger('training').info('50%')); "
        "sys.exit(run_command('stage', body))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={FORMAT_KEY: wanted},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code
    assert shown in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_the_dashboard_asks_for_every_metric_and_for_no_other() -> None:
    dashboard = json.loads((ROOT / "cluster" / "grafana" / "mdsrec.json").read_text())
    panels = dashboard["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"ray_mdsrec_\w+", target["expr"])
    }
    assert asked == NAMES
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert (
        re.findall(r"ray_mdsrec_\w+", json.dumps(dashboard["templating"]))
        == ["ray_mdsrec_epoch"] * 2
    )


def told_within(resolved: dict[str, Any]) -> tuple[list[dict[str, float]], list[float]]:
    """What a training tells inside its epochs, after every step, and the losses of its epochs."""
    signals.LINE_EVERY = 0.0
    told: list[dict[str, float]] = []
    losses: list[float] = []
    experiment = experiment_from(resolved, source="test")
    cpu = torch.device("cpu")
    train(experiment, cpu, lambda epoch: losses.append(epoch["loss"]), tell=told.append)
    return told, losses


def test_an_epoch_that_has_not_ended_tells_its_loss_so_far_and_its_pace(tmp_path: Path) -> None:
    experiment = small_experiment(tmp_path, train={"max_epochs": 2})
    write_dataset(experiment)
    ((told, losses),) = on_ranks(1, told_within, experiment.resolved())
    assert {figures["epoch"] for figures in told} == {0, 1}
    assert all(figures["prefixes_per_second"] > 0 for figures in told)
    last = {figures["epoch"]: figures["loss"] for figures in told}
    assert [last[0], last[1]] == pytest.approx(losses)  # the last line is of all its steps


def scraped(run: str) -> dict[str, float]:
    """What the metrics port of Ray's node says of a run, by name."""
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        text = urlopen(address, timeout=10).read().decode()
    except OSError:  # the agent is not up yet
        return {}
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {s.name: s.value for s in samples if s.labels.get("run") == run}


def until(seen: Callable[[], set[str]], wanted: set[str], seconds: float = 240) -> bool:
    deadline = time.monotonic() + seconds
    while not wanted <= seen() and time.monotonic() < deadline:
        time.sleep(0.3)
    return wanted <= seen()


class Seen(NamedTuple):
    """What a run left to be seen: a training that was stopped when all its gauges were, and its
    evaluation.
    """

    metrics: dict[str, float]
    epochs: list[dict[str, float]]
    logs: str
    page: str
    stranger: int  # the status that Ray's pages answer a request without the token with
    token: str
    root: Path


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    root = tmp_path_factory.mktemp("watched")
    experiment = small_experiment(
        root,
        train={"max_epochs": 10_000, "patience": 10_000, "cpus_per_worker": 0.5},
        spark={"settings": {"spark.hadoop.fs.s3a.secret.key": SECRET}},
    )
    write_dataset(experiment)
    metrics: dict[str, float] = {}

    def found() -> set[str]:
        metrics.update(scraped("small"))
        return set(metrics)

    def stop_when_all_is_seen() -> None:
        until(found, NAMES - {USERS})
        files.write_bytes(f"{run_uri(experiment)}/stop", b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        patch.setenv(FORMAT_KEY, "json")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with ray_session():
            node = ray._private.worker._global_node
            with pytest.raises(HTTPError) as answer:
                urlopen(f"http://{node.webui_url}/api/jobs/")
            looking = threading.Thread(target=stop_when_all_is_seen)
            looking.start()
            epochs = fit(experiment).history["epochs"]
            looking.join()
            evaluate(experiment)
            until(found, NAMES)
            logs = [p for p in Path(node.get_logs_dir_path()).rglob("*") if p.is_file()]
            logged = "\n".join(path.read_text(errors="replace") for path in logs)
            token = (Path.home() / ".ray" / "auth_token").read_text().strip()
            yield Seen(metrics, epochs, logged, node.webui_url, answer.value.code, token, root)


@pytest.mark.ray
def test_a_training_is_seen_on_rays_metrics_port(seen: Seen) -> None:
    for figure, (name, _) in GAUGES.items():
        value = seen.metrics[f"ray_{name}"]
        assert any(value == pytest.approx(epoch[figure]) for epoch in seen.epochs), name


@pytest.mark.ray
def test_an_evaluation_counts_every_user_once_on_rays_metrics_port(seen: Seen) -> None:
    assert seen.metrics[USERS] == NUM_USERS


@pytest.mark.ray
def test_a_ranks_log_lines_carry_run_and_rank(seen: Seen) -> None:
    lines = [json.loads(line) for line in seen.logs.splitlines() if '"rank": 0' in line]
    assert any(line["run"] == "small" and "epoch   0" in line.get("message", "") for line in lines)


@pytest.mark.ray
def test_rays_pages_are_on_loopback_and_ask_for_the_token(seen: Seen) -> None:
    assert seen.page.startswith("127.0.0.1:")
    assert seen.stranger == 401


@pytest.mark.ray
def test_no_secret_is_in_the_runs_files_or_in_rays_logs(seen: Seen) -> None:
    written = [path.read_bytes() for path in seen.root.rglob("*") if path.is_file()]
    assert any(b'"name": "small"' in content for content in written)
    for secret in (SECRET, seen.token):
        assert secret and secret not in seen.logs
        assert not any(secret.encode() in content for content in written)
