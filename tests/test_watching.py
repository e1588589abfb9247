"""Monitoring of a run: log lines, Prometheus metrics, the dashboards of Grafana and Ray."""

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
from urllib.request import urlopen

import pytest
import ray
from epoch_recorder import CPU, EpochRecorder
from gloo import on_ranks
from prometheus_client.parser import text_string_to_metric_families
from small_dataset import NUM_USERS, small_experiment, write_dataset

from evaluation.run import evaluate
from mdsrec import files
from mdsrec.command.logs import FORMAT_KEY, JsonLines
from mdsrec.config.loading import experiment_from
from mdsrec.run_paths import RunPaths
from training.distributed.ray_session import ray_session
from training.lifecycle import signals
from training.loop import train
from training.reporting import GAUGES
from training.run import fit

ROOT = Path(__file__).parent.parent
USERS = "ray_mdsrec_users_total"
SECRET = "hunter2hunter2"
NAMES = {f"ray_{name}" for name, _ in GAUGES.values()} | {USERS}


def record(message: str, *values: Any, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("etl").makeRecord(
        "etl", logging.INFO, "file", 1, message, values, None, extra=extra
    )


def test_a_json_line_has_time_run_rank_and_figures() -> None:
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
        failure = record("failed")
        failure.exc_info = sys.exc_info()
    line = JsonLines({}).format(failure)
    assert "\n" not in line
    assert "OSError: full\ndisk" in json.loads(line)["traceback"]


@pytest.mark.parametrize(
    ("wanted", "code", "shown"),
    [
        ("json", 0, '"logger": "training", "run": "a", "message": "50%"'),
        ("text", 0, " training: 50%"),
        ("xml", 2, "stage: MDSREC_LOG_FORMAT = xml: unknown log format; set it to text or json"),
    ],
)
def test_a_command_logs_in_the_chosen_format(wanted: str, code: int, shown: str) -> None:
    program = (
        "import logging, sys; from mdsrec.command import run_command; "
        "from mdsrec.command.logs import configure_logging; "
        "body = lambda _: (configure_logging('a'), logging.getLogger('training').info('50%')); "
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


def test_the_dashboard_queries_every_metric_and_no_other() -> None:
    dashboard = json.loads((ROOT / "cluster" / "grafana" / "mdsrec.json").read_text())
    panels = dashboard["panels"]
    queried = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"ray_mdsrec_\w+", target["expr"])
    }
    assert queried == NAMES
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert (
        re.findall(r"ray_mdsrec_\w+", json.dumps(dashboard["templating"]))
        == ["ray_mdsrec_epoch"] * 2
    )


def reported(resolved: dict[str, Any]) -> tuple[list[dict[str, float]], list[float]]:
    """Train; return the figures that are reported after every step, and the losses of epochs."""
    signals.LOG_SECONDS = 0.0
    recorder = EpochRecorder()
    train(experiment_from(resolved, source="test"), CPU, recorder)
    return recorder.progress, [epoch["loss"] for epoch in recorder.epochs]


@pytest.mark.slow
def test_an_unfinished_epoch_reports_its_loss_so_far_and_its_throughput(tmp_path: Path) -> None:
    experiment = small_experiment(tmp_path, train={"max_epochs": 2})
    write_dataset(experiment)
    ((progress, losses),) = on_ranks(1, reported, experiment.resolved())
    assert {figures["epoch"] for figures in progress} == {0, 1}
    assert all(figures["prefixes_per_second"] > 0 for figures in progress)
    last = {figures["epoch"]: figures["loss"] for figures in progress}
    assert [last[0], last[1]] == pytest.approx(losses)  # the last report covers all steps


def scraped(run: str) -> dict[str, float]:
    """Return the metrics of a run on the metrics port of Ray's node, by name."""
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        text = urlopen(address, timeout=10).read().decode()
    except OSError:  # the agent is not up yet
        return {}
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {s.name: s.value for s in samples if s.labels.get("run") == run}


def wait_for(names: Callable[[], set[str]], wanted: set[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not wanted <= names() and time.monotonic() < deadline:
        time.sleep(0.3)


class Observed(NamedTuple):
    """Traces of a training and its evaluation. The training was stopped once it had set all its
    gauges.
    """

    metrics: dict[str, float]
    epochs: list[dict[str, float]]
    logs: str
    dashboard: str  # address of Ray's dashboard, if there is one
    token: str
    root: Path


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    root = tmp_path_factory.mktemp("watched")
    experiment = small_experiment(
        root,
        train={"max_epochs": 10_000, "patience": 10_000, "cpus_per_worker": 0.5},
        spark={"settings": {"spark.hadoop.fs.s3a.secret.key": SECRET}},
    )
    write_dataset(experiment)
    metrics: dict[str, float] = {}

    def names() -> set[str]:
        metrics.update(scraped("small"))
        return set(metrics)

    def stop_once_all_gauges_are_set() -> None:
        wait_for(names, NAMES - {USERS})
        files.write_bytes(RunPaths.of(experiment).stop, b"")

    ray.shutdown()  # other tests may have started one without these settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        patch.setenv(FORMAT_KEY, "json")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with ray_session():
            node = ray._private.worker._global_node
            watcher = threading.Thread(target=stop_once_all_gauges_are_set)
            watcher.start()
            epochs = fit(experiment).history["epochs"]
            watcher.join()
            evaluate(experiment)
            wait_for(names, NAMES)
            logs = [p for p in Path(node.get_logs_dir_path()).rglob("*") if p.is_file()]
            logged = "\n".join(path.read_text(errors="replace") for path in logs)
            token = (Path.home() / ".ray" / "auth_token").read_text().strip()
            yield Observed(metrics, epochs, logged, node.webui_url, token, root)


@pytest.mark.slow
@pytest.mark.ray
def test_a_training_sets_gauges_on_rays_metrics_port(observed: Observed) -> None:
    for figure, (name, _) in GAUGES.items():
        value = observed.metrics[f"ray_{name}"]
        assert any(value == pytest.approx(epoch[figure]) for epoch in observed.epochs), name


@pytest.mark.slow
@pytest.mark.ray
def test_an_evaluation_counts_every_user_once_on_rays_metrics_port(observed: Observed) -> None:
    assert observed.metrics[USERS] == NUM_USERS


@pytest.mark.slow
@pytest.mark.ray
def test_log_lines_of_a_rank_carry_run_and_rank(observed: Observed) -> None:
    lines = [json.loads(line) for line in observed.logs.splitlines() if '"rank": 0' in line]
    assert any(line["run"] == "small" and "epoch   0" in line.get("message", "") for line in lines)


@pytest.mark.slow
@pytest.mark.ray
def test_a_ray_of_this_machine_has_no_dashboard(observed: Observed) -> None:
    assert not observed.dashboard


@pytest.mark.slow
@pytest.mark.ray
def test_no_secret_is_in_the_files_of_the_run_or_in_rays_logs(observed: Observed) -> None:
    written = [path.read_bytes() for path in observed.root.rglob("*") if path.is_file()]
    assert any(b'"name": "small"' in content for content in written)
    for secret in (SECRET, observed.token):
        assert secret and secret not in observed.logs
        assert not any(secret.encode() in content for content in written)
