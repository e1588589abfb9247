"""What people and machines can see of a run: log lines, Prometheus metrics, the dashboard."""

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
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
from mdsrec.loading import experiment_from
from mdsrec.logs import FORMAT_KEY, JsonLines
from mdsrec.names import run_uri
from training import calls
from training.gauges import GAUGES
from training.ray_session import ray_session
from training.run import fit
from training.worker import train

ROOT = Path(__file__).parent.parent
USERS = "ray_mdsrec_users_total"
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
    calls.LINE_EVERY = 0.0
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


def until(seen: Callable[[], set[str]], wanted: set[str], seconds: float = 200) -> bool:
    deadline = time.monotonic() + seconds
    while not wanted <= seen() and time.monotonic() < deadline:
        time.sleep(0.3)
    return wanted <= seen()


@pytest.mark.ray
def test_a_run_is_seen_on_rays_metrics_port_and_in_its_ranks_log_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And Ray's own pages are on loopback alone and ask for the token."""
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    monkeypatch.setenv(FORMAT_KEY, "json")
    endless = {"max_epochs": 10_000, "patience": 10_000, "cpus_per_worker": 0.5}
    experiment = small_experiment(tmp_path, train=endless)
    write_dataset(experiment)
    found: dict[str, float] = {}

    def stop_when_all_is_seen() -> None:
        def seen() -> set[str]:
            found.update(scraped("small"))
            return found.keys() & NAMES

        until(seen, NAMES - {USERS})
        files.write_bytes(f"{run_uri(experiment)}/stop", b"")

    with ray_session():
        page = ray._private.worker._global_node.webui_url
        assert page.startswith("127.0.0.1:")
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"http://{page}/api/jobs/")
        looking = threading.Thread(target=stop_when_all_is_seen)
        looking.start()
        epochs = fit(experiment).history["epochs"]
        looking.join()
        for figure, (name, _) in GAUGES.items():
            assert any(found[f"ray_{name}"] == pytest.approx(epoch[figure]) for epoch in epochs)
        evaluate(experiment)
        assert until(lambda: set(scraped("small")), {USERS})
        assert scraped("small")[USERS] == NUM_USERS
        folder = Path(ray._private.worker._global_node.get_logs_dir_path())
        logged = "".join(path.read_text() for path in folder.glob("worker-*.err"))
    lines = [json.loads(line) for line in logged.splitlines() if '"rank": 0' in line]
    assert any(line["run"] == "small" and "epoch   0" in line["message"] for line in lines)
