"""The commands of docs/cluster.md, run on three hosts and one outside, produce a report."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from hosts import ROOT, hosts, needs_hosts

pytestmark = [pytest.mark.slow, pytest.mark.ray, needs_hosts, pytest.mark.timeout(2400)]

SECTION = "## Three machines, one report\n"
NOT_IN_A_CHECKOUT = shutil.ignore_patterns(".*", "artifacts", "data", "__pycache__")


def commands() -> list[tuple[str, str]]:
    """Return (place, commands) of each block of the section."""
    text = (ROOT / "docs" / "cluster.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    return re.findall(r"^(On [^\n]*):\n\n```\n(.*?)```$", text, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_docs_produce_a_report(tmp_path: Path) -> None:
    checkout, home = tmp_path / "mdsrec", tmp_path / "home"
    shutil.copytree(ROOT, checkout, ignore=NOT_IN_A_CHECKOUT)
    (checkout / ".venv").symlink_to(sys.prefix)
    home.mkdir()
    variables = {"HOME": str(home), "HEAD": "10.77.0.1"}
    with hosts(4, tmp_path, **variables) as (head, *workers, outside):
        places = {
            "On the head": [head],
            "On every other machine": workers,
            "On any machine that reaches the head": [outside],
        }
        output = ""
        for place, block in commands():
            for host in places.pop(place):
                output = host.check_output("bash", "-e", "-c", block, folder=checkout, seconds=1800)
        assert not places
    report = Path(output.splitlines()[-1].removeprefix("report: "))
    assert report.is_relative_to(checkout / "artifacts") and report.stat().st_size > 10_000
    assert {path.name for path in checkout.iterdir() if path.is_dir()} >= {"data", "artifacts"}
