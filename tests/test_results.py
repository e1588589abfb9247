"""Every result that README and docs/results.md print is in docs/results.toml."""

import re
import runpy
import subprocess
from pathlib import Path

import pytest

from benchmarks.verify import differences, expected_metrics
from mdsrec.text import text_table

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
SCRIPT = runpy.run_path(str(ROOT / "docs" / "results.py"))
RESULTS = SCRIPT["read_results"]()
DECIMAL = re.compile(r"(?<![\d.])0?(\.\d{3,})")
DURATION = re.compile(r"\b(?:\d+ min )?\d+ s\b")


def measured(pattern: re.Pattern[str]) -> set[str]:
    """Return what the pattern finds in all cells and values of the file."""
    cells = [cell for r in RESULTS.values() for row in r.get("rows", []) for cell in row]
    cells += [value for r in RESULTS.values() for value in r.get("values", {}).values()]
    return {found for cell in cells for found in pattern.findall(cell)}


def prose(page: str) -> str:
    """Return a page without blocks of code and without tables."""
    return re.sub(r"^\|.*$", "", re.sub(r"```.*?```", "", page, flags=re.S), flags=re.M)


def words(text: str) -> str:
    return " ".join(text.replace("\\\n", " ").split())


def test_the_tables_of_the_page_are_those_of_the_file():
    page = PAGE.read_text()
    assert SCRIPT["render"](page, RESULTS) == page, "run `make docs`"
    with_rows = {name for name, result in RESULTS.items() if "rows" in result} - {"demo"}
    marked = re.findall(r"<!-- table: (\S+) -->\n\n\|", page)
    assert sorted(marked) == sorted(with_rows)
    assert len(re.findall(r"(?:^\|.*\n)+", page, flags=re.M)) == len(marked)  # no other table


def test_no_other_number_is_in_the_text():
    for page in (PAGE, README):
        assert set(DECIMAL.findall(prose(page.read_text()))) <= measured(DECIMAL), page
    assert set(DURATION.findall(prose(README.read_text()))) <= measured(DURATION)


def test_a_number_that_the_file_lacks_is_found():
    page = PAGE.read_text()
    assert SCRIPT["render"](page.replace(".1498 ± .0009", ".1598 ± .0009"), RESULTS) == page
    assert DECIMAL.findall(prose("reaches .1598 (0.1597),\n| .1599 |\n")) == [".1598", ".1597"]
    assert ".1598" not in measured(DECIMAL)


@pytest.mark.parametrize("page", [PAGE, README], ids=["results.md", "README"])
def test_the_demo_prints_what_the_pages_show(page):
    demo = RESULTS["demo"]
    assert text_table(demo["columns"], demo["rows"]) in page.read_text()


def test_the_page_shows_the_command_of_each_result():
    pages = words("\n".join(p.read_text() for p in (PAGE, ROOT / "docs" / "benchmarks.md")))
    missing = [name for name, r in RESULTS.items() if words(r["command"]) not in pages]
    assert not missing


def test_each_result_names_a_commit_of_the_project():
    if subprocess.run(["git", "rev-parse", "HEAD~1"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("no history of commits here")
    for name, result in RESULTS.items():
        found = ["git", "merge-base", "--is-ancestor", result["commit"], "HEAD"]
        assert subprocess.run(found, cwd=ROOT, capture_output=True).returncode == 0, name


def test_counts_must_be_equal_and_trained_metrics_close():
    section = {
        "columns": ["run", "ndcg@10"],
        "rows": [["demo", "0.0910"], ["popularity", "0.0158"]],
    }
    expected = expected_metrics(section)
    assert expected == {"demo": {"ndcg@10": 0.091}, "popularity": {"ndcg@10": 0.0158}}
    close = {"demo": {"ndcg@10": 0.1009}, "popularity": {"ndcg@10": 0.01584}}
    assert differences(expected, close) == []
    far = {"demo": {"ndcg@10": 0.0809}, "popularity": {"ndcg@10": 0.0159}}
    assert differences(expected, far) == [
        "ndcg@10 of demo is 0.0809 instead of 0.0910",
        "ndcg@10 of popularity is 0.0159 instead of 0.0158",
    ]
    unknown = {"demo": {"ndcg@10": float("nan")}, "popularity": {"ndcg@10": 0.0158}}
    assert differences(expected, unknown) == ["ndcg@10 of demo is nan instead of 0.0910"]
