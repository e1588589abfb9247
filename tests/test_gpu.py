"""The checks of `benchmarks.gpu`: on a GPU where there is one, and without one.

`pytest -m gpu` runs those of a GPU, each in a process of its own as `make gpu` does.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.__main__ import is_passed, result_of, run_check, summary
from benchmarks.gpu.checks import CHECKS
from benchmarks.gpu.one import check
from benchmarks.gpu.report import Report
from benchmarks.measure import Reading
from training.layers import scoring
from training.layers.gru import GRU

QUICK = ("equal items", "long bags", "ranking", "million items")


@pytest.mark.gpu
@pytest.mark.timeout(max(check.seconds for check in CHECKS.values()) + 60)
@pytest.mark.parametrize("name", CHECKS)
def test_a_gpu_passes(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    result = run_check(name, is_pretended=False)
    assert is_passed(result), summary(name, result)


@pytest.mark.parametrize("name", QUICK)
def test_a_check_runs_on_a_pretended_gpu(name: str) -> None:
    report = check(name, is_pretended=True)
    assert report.values and not report.failures
    json.dumps(report.values)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_check_runs_without_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--pretend", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(out.read_text())
    assert content["pretended"] and list(content["checks"]) == list(CHECKS)
    for name, result in content["checks"].items():
        assert is_passed(result) and result["found"] and result["expected"], name


def test_scores_that_depend_on_the_place_of_an_item_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = scoring.Tiles.score

    def by_place(self: scoring.Tiles, items: torch.Tensor, out: torch.Tensor) -> None:
        plain(self, items, out)
        out[..., 63] *= 1 + 2**-22

    monkeypatch.setattr(scoring.Tiles, "score", by_place)
    report = check("equal items", is_pretended=True)
    assert report.failures[0] == "tiles of 64: equal items have other scores"


def test_recurrent_layers_in_another_type_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = GRU.forward

    def in_half(self: GRU, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        type_of_states = torch.bfloat16 if torch.is_autocast_enabled("cuda") else torch.float32
        return tuple(state.to(type_of_states) for state in plain(self, x))

    monkeypatch.setattr(GRU, "forward", in_half)
    report = check("gru", is_pretended=True)
    assert any(line.startswith("bf16: states in {'torch.bfloat16'}") for line in report.failures)


def test_a_check_that_is_stopped_or_fails_has_not_passed() -> None:
    late = result_of("gru", Reading("stopped: more than 60 s", 60.2, 0, 0))
    assert not is_passed(late)
    assert summary("gru", late).splitlines()[0] == "gru: stopped: more than 60 s (60 s of 60)"
    found = {"values": {"a": 1}, "failures": ["a is not 2"]}
    wrong = result_of("gru", Reading("done", 3.0, 0, 0, found))
    assert not is_passed(wrong)
    assert summary("gru", wrong).splitlines()[:3] == [
        "gru: 1 FAILED (3 s of 60)",
        "    FAILED a is not 2",
        "    a: 1",
    ]
    assert is_passed(result_of("gru", Reading("done", 3.0, 0, 0, {**found, "failures": []})))


@pytest.mark.slow
def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU")
    result = run_check("gru", is_pretended=False)
    assert result["outcome"] == (
        "failed: benchmarks.gpu.one: torch sees no GPU: --pretend runs the checks on the CPU"
    )


def test_the_result_so_far_is_printed_with_every_claim_that_does_not_hold(capsys: Any) -> None:
    report = Report()
    report.note("ms", 1.5)
    report.require(False, "too slow")
    *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == {"values": {"ms": 1.5}, "failures": ["too slow"]}
