"""Runs that start in different ways: the time to the first form's best, and quality."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.seeds import channels_of, difference_cells, events_of, metric_cells
from mdsrec.text import markdown_table
from tuning.stages import RunSpec

VALIDATION = "ndcg@10"  # decides the best epoch
SHOWN = ("recall@10", "ndcg@10")


class Reached(NamedTuple):
    """Epochs and seconds until a run first reaches a validation metric; None if it never does."""

    epochs: float | None
    seconds: float | None


def print_tables(runs: Sequence[RunSpec], untrained: Sequence[RunSpec] = ()) -> None:
    """Print a table of the whole score, and with a memory one of the network without it.

    `untrained` are runs that were trained on other events, so their epochs are not compared.
    """
    for channel in channels_of(runs[0].experiment):
        print(f"channel {channel}\n\n{_table(runs, untrained, channel)}\n")


def _table(runs: Sequence[RunSpec], untrained: Sequence[RunSpec], channel: str) -> str:
    """Return a table of the starts, each compared with the first one, over all seeds.

    Seconds count the steps and the validation of epochs, not what comes before the first step.
    """
    events = events_of([*runs, *untrained], channel)
    histories = {form: [run.history() for run in runs if run.label == form] for form in events}
    first, *_ = events
    rows = [
        [
            form,
            *(_times(histories[form], histories[first]) if histories[form] else ["", "", ""]),
            *metric_cells(events[form], SHOWN),
            *(difference_cells(events[form], events[first], SHOWN) if form != first else ["", ""]),
        ]
        for form in events
    ]
    header = [
        "start",
        "best epoch",
        f"epochs to the best of {first}",
        f"seconds to it, of those of {first}",
        *SHOWN,
        *(f"{name} better than {first} by" for name in SHOWN),
    ]
    return markdown_table(header, rows)


def reached(epochs: Sequence[Mapping[str, Any]], value: float) -> Reached:
    """Return the epochs and seconds after which the validation metric is at least `value`."""
    seconds = 0.0
    for number, epoch in enumerate(epochs, 1):
        seconds += epoch["seconds"]
        if epoch[VALIDATION] >= value:
            return Reached(number, seconds)
    return Reached(None, None)


def _times(
    histories: Sequence[Mapping[str, Any]], of_first: Sequence[Mapping[str, Any]]
) -> list[str]:
    best = [str(history["best_epoch"] + 1) for history in histories]
    epochs, shares = [], []
    for history, first in zip(histories, of_first, strict=True):
        value = first["epochs"][first["best_epoch"]][VALIDATION]
        found, base = reached(history["epochs"], value), reached(first["epochs"], value)
        epochs.append("never" if found.epochs is None else str(found.epochs))
        assert base.seconds is not None
        shares.append("-" if found.seconds is None else f"{found.seconds / base.seconds:.2f}")
    return [", ".join(column) for column in (best, epochs, shares)]
