"""Slices of test events that several runs share. They belong to the data, not to a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.metrics.events import Events
from evaluation.metrics.run_metrics import Means, RunMetrics
from evaluation.metrics.slices import SliceSums, Slicing


@dataclass(frozen=True)
class SharedSlice:
    """The means of every run over the same events."""

    slicing: str
    name: str
    events: int
    means: Sequence[Means]  # by run; {} where a run has none


class SharedSlices:
    """The slices of events that arrive in parts, with the means of every run."""

    def __init__(self, slicings: Mapping[str, Slicing], names: Sequence[str], runs: int) -> None:
        self._names = names
        self._sums = {
            name: [SliceSums(slicing, len(names)) for _ in range(runs)]
            for name, slicing in slicings.items()
        }

    def add(self, runs: Sequence[Events]) -> None:
        """Add the same events of every run."""
        for of_runs in self._sums.values():
            for sums, events in zip(of_runs, runs, strict=True):
                sums.add(events.users, events.targets, events.values)

    def found(self) -> list[SharedSlice]:
        """Return the slices with some events."""
        found = []
        for slicing, of_runs in self._sums.items():
            means = [sums.means(self._names) for sums in of_runs]
            for name, events in zip(means[0], of_runs[0].targets.tolist(), strict=True):
                if events:
                    found.append(SharedSlice(slicing, name, events, [each[name] for each in means]))
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
