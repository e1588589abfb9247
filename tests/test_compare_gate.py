"""The gate of a comparison: may a new run take the place of the one in service?"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluated_runs import write_run

from evaluation.compare import compare_with_gate
from mdsrec.errors import InputError

USERS = 40
BETTER_RANKS = [user % 5 for user in range(USERS)]
WORSE_RANKS = [rank + 3 for rank in BETTER_RANKS]
MIXED_RANKS = [rank + (2 if user % 2 else -1) for user, rank in enumerate(WORSE_RANKS)]


def run_with(folder: Path, name: str, ranks: Sequence[int], **changes: Any) -> str:
    """Write a run whose targets have `ranks` items above them -> its folder."""
    rows = [(user, user % 7, "test", "all", rank, 0) for user, rank in enumerate(ranks)]
    found: str = write_run(folder, name, rows, **changes)
    return found


def gated_code(*words: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of `python -m evaluation compare`."""
    command = [sys.executable, "-m", "evaluation", "compare", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, str]:
    ranks = {"better": BETTER_RANKS, "worse": WORSE_RANKS, "mixed": MIXED_RANKS}
    return {name: run_with(tmp_path, name, each) for name, each in ranks.items()}


def test_a_worse_run_ends_with_3_and_a_line_that_says_by_how_much(runs: dict[str, str]) -> None:
    code, output, errors = gated_code(runs["worse"], "--no-worse-than", runs["better"])
    assert (code, errors) == (3, "")
    line = output.splitlines()[-1]
    assert line.startswith("gate    worse: ndcg@10 is worse than better by .")
    assert "(95% interval ." in line
    assert (Path(runs["worse"]) / "comparison.html").exists()


def test_a_better_run_and_one_within_the_noise_pass(runs: dict[str, str]) -> None:
    code, output, _ = gated_code(runs["better"], "--no-worse-than", runs["worse"])
    assert code == 0
    assert output.splitlines()[-1].startswith("gate    better: ndcg@10 is better than worse by .")
    found = compare_with_gate([runs["mixed"]], runs["worse"])
    assert not found.is_worse
    assert "ndcg@10 is not clearly different from worse: -.0" in found.screen


def test_only_the_first_run_is_held_to_the_gate(runs: dict[str, str]) -> None:
    three = [runs["better"], runs["worse"], runs["mixed"]]
    assert not compare_with_gate(three, runs["worse"]).is_worse
    assert compare_with_gate(three[1:], runs["better"]).is_worse


def test_the_metric_decides(tmp_path: Path) -> None:
    first = run_with(tmp_path, "first", [0] * 20 + [12] * 20)
    other = run_with(tmp_path, "other", [8] * 40)
    assert compare_with_gate([first], other, "recall@10").is_worse
    assert not compare_with_gate([first], other, "recall@1").is_worse
    with pytest.raises(InputError, match=r"--metric hits@3: the runs have none of that name: \[r"):
        compare_with_gate([first], other, "hits@3")


def test_a_gate_on_other_events_or_on_itself_is_refused(
    tmp_path: Path, runs: dict[str, str]
) -> None:
    elsewhere = run_with(tmp_path, "elsewhere", BETTER_RANKS, dataset="e" * 16)
    code, output, errors = gated_code(elsewhere, "--no-worse-than", runs["better"])
    assert (code, output) == (2, "")
    assert "its data (dddddddddddddddd) differs from" in errors
    with pytest.raises(InputError, match="compared with itself"):
        compare_with_gate([runs["better"]], f"{runs['better']}/")
    code, _, errors = gated_code(runs["better"], "--metric", "ndcg@10")
    assert code == 2
    assert "give --no-worse-than RUN too" in errors


def test_two_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    first = run_with(tmp_path / "may", "demo", WORSE_RANKS)
    other = run_with(tmp_path / "june", "demo", BETTER_RANKS)
    assert f"{first}: ndcg@10 is worse than {other} by" in compare_with_gate([first], other).screen
