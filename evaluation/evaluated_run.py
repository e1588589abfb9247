"""The files that an evaluated run left in its folder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from evaluation.cases import Cases
from evaluation.metrics.run_metrics import RunMetrics
from mdsrec import files
from mdsrec.run_paths import RunPaths


@dataclass(frozen=True)
class EvaluatedRun:
    """Metrics, history, configuration and cases of a run."""

    uri: str
    metrics: RunMetrics
    history: dict[str, Any]  # {} if the file is missing
    config: dict[str, Any]  # {} if the file is missing
    cases: Cases | None  # None if the file is missing, or was made from other ranks than `metrics`

    @property
    def name(self) -> str:
        return self.metrics.name

    @classmethod
    def read(cls, uri: str) -> Self:
        """Read the run folder. Raises InputError if it has no metrics, or if a file is damaged."""
        paths = RunPaths(uri)
        metrics = RunMetrics.read(paths.metrics)
        cases = Cases.read(paths.cases)
        return cls(
            uri,
            metrics,
            files.read_json(paths.history),
            files.read_json(paths.config),
            cases if cases and cases.ranks == metrics.ranks else None,
        )


def run_labels(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return a short label per run: its name, or its folder if two names are equal.

    Leading words that all labels share are removed.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [run.uri for run in runs]
    words = [re.split("(?<=[-/])", name) for name in names]
    while len(runs) > 1 and min(map(len, words)) > 1 and len({first for first, *_ in words}) == 1:
        words = [rest for _, *rest in words]
    return ["".join(rest) for rest in words]
