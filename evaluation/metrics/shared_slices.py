"""Slices of test events that several runs share. They belong to the data, not to a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.metrics.events import Events
from evaluation.metrics.run_metrics import Means, RunMetrics
from evaluation.metrics.slices import Slicing


@dataclass(frozen=True)
class SharedSlice:
    """The means of every run over the same events."""

    slicing: str
    name: str
    events: int
    means: Sequence[Means]  # by run; {} where a run has none


def shared_slices(runs: Sequence[Events], slicings: Mapping[str, Slicing]) -> list[SharedSlice]:
    """Average each run's events over each slice that has some."""
    found = []
    for slicing, each in slicings.items():
        slices = each.slices(runs[0].users, runs[0].targets)
        for index, name in enumerate(each.names):
            chosen = np.flatnonzero(slices == index)
            if len(chosen):
                means = [_means(run, chosen) for run in runs]
                found.append(SharedSlice(slicing, name, len(chosen), means))
    return found


def stored_slices(runs: Sequence[RunMetrics]) -> list[SharedSlice]:
    """Return the slices in the runs' metrics.json, each with the runs that have it."""
    slicings = [run.slices["test"] for run in runs]
    keys = dict.fromkeys(
        (slicing, name) for of_run in slicings for slicing in of_run for name in of_run[slicing]
    )
    found = []
    for slicing, name in keys:
        by_run = [of_run.get(slicing, {}).get(name) for of_run in slicings]
        events = max(each.targets for each in by_run if each)
        if events:
            means = [each.channels["all"] if each else {} for each in by_run]
            found.append(SharedSlice(slicing, name, events, means))
    return found


def _means(run: Events, chosen: np.ndarray) -> Means:
    return dict(zip(run.names, run.values[chosen].mean(axis=0).tolist(), strict=True))
