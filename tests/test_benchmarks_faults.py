"""`python -m benchmarks.faults`: what counts as an answer."""

import json

import pytest

from benchmarks.faults.__main__ import main
from benchmarks.faults.tries import Answer, Try, answered, report


@pytest.mark.parametrize(
    "code, output, right, expected",
    [
        (0, "done\n", True, Answer.SAME),
        (0, "done\n", False, Answer.SILENT),
        (2, "mdsrec etl: error: part-0.parquet: damaged\n", False, Answer.LINE),
        (1, "Traceback (most recent call last):\n  …\nOSError\n", False, Answer.TRACEBACK),
        (0, "Traceback (most recent call last):\n  …\nOSError\n", True, Answer.TRACEBACK),
    ],
)
def test_an_answer_follows_from_exit_code_output_and_result(code, output, right, expected):
    found = answered("bits", "bit 3", code, output, right)
    assert found == Try("bits", "bit 3", expected, output.strip().splitlines()[-1])


def test_a_report_counts_by_kind_and_fails_where_a_try_failed(tmp_path, capsys):
    good = [Try("bits", "bit 3", Answer.LINE), Try("bits", "bit 4", Answer.SAME)]
    report(tmp_path, "bits", good)
    assert "| bits | 2 | 1 | 1 | 0 | 0 | 0 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        report(tmp_path, "bits", [*good, Try("names", "a NUL", Answer.TRACEBACK)])
    assert "| names | 1 | 0 | 0 | 0 | 1 | 0 |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "bits.json").read_text())) == 3


@pytest.mark.slow
def test_two_jobs_on_one_root_leave_the_tables_of_one_of_them(tmp_path, capsys):
    """One job paused, and one suspended: the other takes over. Seed 0 draws both kinds."""
    main(["jobs", str(tmp_path), "--plain", "--tries=2"])
    tries = json.loads((tmp_path / "jobs.json").read_text())
    assert {one["kind"] for one in tries} == {"paused job", "suspended job"}
    assert {one["answer"] for one in tries} <= {Answer.SAME, Answer.LINE}
