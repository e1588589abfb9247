"""Runs on the same data side by side."""

import json
from collections.abc import Sequence
from typing import Any

from mdsrec import files
from mdsrec.errors import InputError
from mdsrec.section import absolute

SAME = {"dataset": "data", "cutoffs": "eval.cutoffs", "exclude_seen": "rule on seen items"}


def comparison(runs: Sequence[str]) -> str:
    """Test metrics of the whole score of each run, and popularity's; where their reports lie."""
    found = [_metrics(absolute(run).rstrip("/")) for run in runs]
    for run, other in zip(runs, found, strict=True):
        for key, words in SAME.items():
            if other[key] != found[0][key]:
                raise InputError(
                    f"{run}: its {words} ({other[key]}) differ from {runs[0]}'s ({found[0][key]}): "
                    "compare runs on equal terms"
                )
    names = [f"{metric}@{n}" for metric in ("recall", "ndcg") for n in found[0]["cutoffs"]]
    rows = [[metrics["name"], metrics["split"]["test"]["all"]] for metrics in found]
    rows.append(["popularity", found[0]["split"]["test"]["popularity"]])
    table = text_table(
        ["run", *names],
        [[name, *(f"{means[key]:.4f}" for key in names)] for name, means in rows],
    )
    reports = [f"report  {absolute(run).rstrip('/')}/report.html" for run in runs]
    return "\n".join([table, "", *reports])


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell: the first to the left, figures to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _metrics(run: str) -> dict[str, Any]:
    content = files.read_bytes(f"{run}/metrics.json")
    if content is None:
        raise InputError(f"{run}/metrics.json: no such file: run `python -m evaluation CONFIG`")
    try:
        metrics: dict[str, Any] = json.loads(content)
        return {
            key: metrics[key] for key in ("name", "dataset", "cutoffs", "exclude_seen", "split")
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run}/metrics.json: damaged ({error}): evaluate the run again") from None
