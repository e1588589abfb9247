"""Figures by slice of the test events, in a report and in a comparison."""

from collections.abc import Sequence

from evaluation.metrics.run_metrics import Means, RunMetrics
from evaluation.metrics.shared_slices import SharedSlice
from evaluation.metrics.slices import CATEGORY, MIN_EVENTS, TRAINING_EVENTS, USER_HISTORY
from evaluation.report import html
from evaluation.report.channels import channel_name

ABSENT = "-"
BOUND = (
    f"A slice of fewer than {MIN_EVENTS} events has no figure, because one event would change it "
    f"by more than {1 / MIN_EVENTS:.2g}."
)


def slices_table(metrics: RunMetrics) -> str:
    """Return recall at the first cutoff by slice and channel."""
    first = f"recall@{metrics.cutoffs[0]}"
    channels = list(metrics.split["test"])
    rows = [
        [
            slice_name(slicing, name),
            f"{found.targets:,}",
            *(figure(found.targets, found.channels.get(each, {}), first) for each in channels),
        ]
        for slicing, slices in metrics.slices["test"].items()
        for name, found in slices.items()
        if found.targets
    ]
    return html.table(["target", "events", *map(channel_name, channels)], rows) if rows else ""


def shared_slices_tables(
    slices: Sequence[SharedSlice], metrics: Sequence[str], labels: Sequence[str]
) -> str:
    """Return a table per metric: slices by run."""
    tables = []
    for metric in metrics if slices else []:
        rows = [
            [
                slice_name(each.slicing, each.name),
                f"{each.events:,}",
                *(figure(each.events, means, metric) for means in each.means),
            ]
            for each in slices
        ]
        tables.append((metric, html.table(["target", "events", *labels], rows)))
    return html.panels(tables, columns=1 if len(labels) > 3 else 2)


def figure(events: int, means: Means, metric: str) -> str:
    """Return a mean over so many events, or ABSENT if they are too few or the mean is missing."""
    return f"{means[metric]:.4f}" if events >= MIN_EVENTS and metric in means else ABSENT


def slice_name(slicing: str, name: str) -> str:
    """Return `with text`, `category Arts`, `never trained`, `user with 5 to 9 events`, ..."""
    named = {
        TRAINING_EVENTS: name,
        USER_HISTORY: f"user with {name}",
        CATEGORY: f"category {name}",
    }
    return named.get(slicing, f"{name} {slicing}")
