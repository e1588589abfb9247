"""What an evaluated run left in its folder."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.cases import Cases
from evaluation.metrics.run_metrics import RunMetrics
from mdsrec import files
from mdsrec.errors import InputError


@dataclass(frozen=True)
class FinishedRun:
    uri: str
    metrics: RunMetrics
    history: dict[str, Any]  # these two are empty where there is no such file
    config: dict[str, Any]
    cases: Cases | None  # of the ranks that the metrics are of

    @property
    def name(self) -> str:
        return self.metrics.name


def finished_run(uri: str) -> FinishedRun:
    """InputError where there are no metrics, or a file is damaged."""
    metrics = RunMetrics.read(f"{uri}/metrics.json")
    cases = Cases.read(f"{uri}/cases.json")
    return FinishedRun(
        uri,
        metrics,
        _json(f"{uri}/history.json") or {},
        _json(f"{uri}/config.json") or {},
        cases if cases and cases.ranks == metrics.ranks else None,
    )


def labels_of(runs: Sequence[FinishedRun]) -> list[str]:
    """The runs' names, or where two are alike their folders, without the words they share first."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [run.uri for run in runs]
    words = [re.split("(?<=[-/])", name) for name in names]
    while len(runs) > 1 and min(map(len, words)) > 1 and len({first for first, *_ in words}) == 1:
        words = [rest for _, *rest in words]
    return ["".join(rest) for rest in words]


def _json(uri: str) -> dict[str, Any] | None:
    """None where there is no such file."""
    content = files.read_bytes(uri)
    try:
        return None if content is None else dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise InputError(f"{uri}: damaged ({error}): run its stage again") from None
