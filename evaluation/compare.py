"""Runs on the same data side by side."""

import json
from collections.abc import Sequence
from typing import Any

from evaluation.events import events_of
from evaluation.intervals import difference
from mdsrec import files
from mdsrec.errors import InputError
from mdsrec.section import absolute

SAME = {"dataset": "data", "cutoffs": "eval.cutoffs", "exclude_seen": "rule on seen items"}


def comparison(runs: Sequence[str]) -> str:
    """Test metrics of the whole score of each run, and popularity's; how far each run is from the
    first; where their reports lie.
    """
    runs = [absolute(run).rstrip("/") for run in runs]
    found = [_metrics(run) for run in runs]
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
    reports = [f"report  {run}/report.html" for run in runs]
    apart = [_differences(runs, found), ""] if len(runs) > 1 else []
    return "\n".join([table, "", *apart, *reports])


def _differences(runs: Sequence[str], found: Sequence[dict[str, Any]]) -> str:
    """Each run less the first on the same test events: mean, 95% interval, p."""
    cutoffs = tuple(found[0]["cutoffs"])
    first, *others = (events_of(run, cutoffs) for run in runs)
    shown = [f"{metric}@{cutoffs[0]}" for metric in ("recall", "ndcg")]
    rows = []
    for metrics, other in zip(found[1:], others, strict=True):
        apart = difference(other.users, other.values, first.values)
        places = [other.names.index(name) for name in shown]
        rows.append([metrics["name"], *(apart.words(place) for place in places)])
    return text_table([f"less {found[0]['name']}", *shown], rows)


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
