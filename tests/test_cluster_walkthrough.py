"""docs/cluster.md, followed word by word on three machines and one outside, reaches a report."""

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
    """Where the section says that a block of commands goes, and the block."""
    text = (ROOT / "docs" / "cluster.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    return re.findall(r"^(On [^\n]*):\n\n```\n(.*?)```$", text, re.MULTILINE | re.DOTALL)


def test_a_stranger_reaches_a_report(tmp_path: Path) -> None:
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
        said = ""
        for place, block in commands():
            for host in places.pop(place):
                said = host.do("bash", "-e", "-c", block, folder=checkout, seconds=1800)
        assert not places
    report = Path(said.splitlines()[-1].removeprefix("report: "))
    assert report.is_relative_to(checkout / "artifacts") and report.stat().st_size > 10_000
    assert {path.name for path in checkout.iterdir() if path.is_dir()} >= {"data", "artifacts"}
