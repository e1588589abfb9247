"""The services of docs/serving.md answer with the lists of the run."""

import importlib.util
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from random_runs import run_of, write_weights
from small_dataset import small_experiment, write_dataset

from benchmarks import serving
from evaluation import Recommender

PAGE = Path(__file__).parent.parent / "docs" / "serving.md"
HISTORY = ["B0004", "B0017"]

needs_fastapi = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("fastapi", "httpx"))),
    reason='needs fastapi and httpx: pip install ".[dev]"',
)
needs_serve = pytest.mark.skipif(
    importlib.util.find_spec("grpc_reflection") is None,
    reason='needs Ray Serve: pip install ".[serve]"',
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    experiment = small_experiment(tmp_path_factory.mktemp("run"))
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    return run_of(experiment)


def code_under(heading: str) -> str:
    """Return the Python under a heading of the page."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return str(code)


def service_under(heading: str, run: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("RUN", run)
    names: dict[str, Any] = {"__name__": "service"}
    exec(code_under(heading), names)
    return names


@needs_fastapi
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_fastapi_service_answers_with_the_list_of_the_history(run, monkeypatch):
    from fastapi.testclient import TestClient

    client = TestClient(service_under("FastAPI", run, monkeypatch)["app"])
    answer = client.post("/recommend", params={"top": 3}, json=HISTORY)
    expected = Recommender.load(run).recommend(HISTORY, top=3, exclude_seen=True)
    assert answer.json() == expected.to_dict("records")
    assert len(answer.json()) == 3
    for history in ([], ["gone"]):
        refused = client.post("/recommend", json=history)
        assert refused.status_code == 422
        assert "history" in refused.json()["detail"]


@needs_serve
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Ray Serve
def test_the_ray_serve_service_answers_with_the_list_of_the_history(run, monkeypatch, shared_ray):
    from ray import serve

    service = service_under("Ray Serve", run, monkeypatch)
    try:
        serve.run(service["app"])
        body = json.dumps(HISTORY).encode()
        with urllib.request.urlopen("http://127.0.0.1:8000/", body, timeout=60) as answer:
            rows = json.load(answer)
    finally:
        serve.shutdown()
    expected = Recommender.load(run).recommend(HISTORY, exclude_seen=True)
    assert rows == expected.to_dict("records")


@needs_fastapi
@pytest.mark.slow
def test_the_latency_is_measured_by_the_command_of_the_page(run, capsys):
    assert "`python -m benchmarks.serving RUN`" in PAGE.read_text()
    serving.main([run, "--repeats", "3"])
    printed = capsys.readouterr().out
    assert "small: 40 items" in printed
    assert "over HTTP, 20 events" in printed
    assert "256 together" in printed
