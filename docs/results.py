"""Write the tables of docs/results.md from docs/results.toml: `make docs`.

The page marks each table with `<!-- table: NAME -->`. A section [NAME] of the file holds its cells,
the command and the seeds of the measurement, and the commit that it was made with.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from mdsrec.text import markdown_table

PAGE = Path(__file__).with_suffix(".md")
RESULTS = Path(__file__).with_suffix(".toml")
TABLE = re.compile(r"<!-- table: (?P<name>\S+) -->\n\n(?:\|.*\n)*")


def read_results() -> dict[str, dict[str, Any]]:
    """Return the section of each measurement."""
    return tomllib.loads(RESULTS.read_text())


def render(page: str, results: dict[str, dict[str, Any]]) -> str:
    """Return the page with the tables of the file. KeyError for a table that the file lacks."""

    def table(match: re.Match[str]) -> str:
        result = results[match["name"]]
        rows = markdown_table(result["columns"], result["rows"])
        return f"<!-- table: {match['name']} -->\n\n{rows}\n"

    return TABLE.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(), read_results()))
