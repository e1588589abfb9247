"""report.html of a run. Every figure stands in metrics.json, history.json or a table's manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from evaluation import page
from evaluation.curves import channel_name, learning_panels, recall_panels, training_note
from evaluation.dataset import Manifests, configuration_table, data_section
from evaluation.ranking import POPULARITY

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """All that a report tells."""

    config: Mapping[str, Any]  # resolved
    metrics: Metrics
    history: Mapping[str, Any]
    manifests: Manifests
    next_steps: Sequence[str]


def report(facts: Facts) -> str:
    return page.page(
        f"{facts.config['name']}: report",
        [
            *_head(facts),
            page.section(
                "Ranking quality",
                channel_table(facts.metrics),
                "Test events, each ranked among all items: none sampled, none left out as seen. "
                "Tied items count as a random order of them would.",
            ),
            page.section("How far down the list", recall_panels(facts.metrics)),
            page.section("Training", learning_panels(facts.history), training_note(facts.history)),
            page.section(
                "By what the target item is",
                slices_table(facts.metrics),
                "The whole score on test events, by whether the target has the modality and by how "
                "often it was trained.",
            ),
            page.section(
                "Data", data_section(facts.manifests), "Counted while the tables were made."
            ),
            page.section("Next", page.commands(facts.next_steps)),
            page.collapsed("Configuration", configuration_table(facts.config)),
            page.footer(
                f"Weights {facts.metrics['weights']}, data {facts.metrics['dataset']}, "
                f"ranks {facts.metrics['ranks']}. Metrics are reductions of the ranks table."
            ),
        ],
    )


def headline(cutoffs: Sequence[int]) -> list[str]:
    return [f"{metric}@{n}" for metric in ("recall", "ndcg") for n in cutoffs]


def channel_rows(metrics: Metrics) -> list[list[str]]:
    """recall@N and ndcg@N of each channel on the test events."""
    return [
        [channel_name(channel), *_figures(means, headline(metrics["cutoffs"]))]
        for channel, means in metrics["split"]["test"].items()
    ]


def channel_table(metrics: Metrics) -> str:
    styles = [
        {"all": "main", POPULARITY: "floor"}.get(channel, "")
        for channel in metrics["split"]["test"]
    ]
    return page.table(["channel", *headline(metrics["cutoffs"])], channel_rows(metrics), styles)


def slices_table(metrics: Metrics) -> str:
    rows = [
        [
            kind if name == "training events" else f"{kind} {name}",
            f"{means['targets']:,}",
            *_figures(means, headline(metrics["cutoffs"])),
        ]
        for name, kinds in metrics["slices"]["test"].items()
        for kind, means in kinds.items()
    ]
    return page.table(["target", "events", *headline(metrics["cutoffs"])], rows) if rows else ""


def _head(facts: Facts) -> list[str]:
    metrics, history = facts.metrics, facts.history
    best, floor = metrics["split"]["test"].get("all", {}), metrics["split"]["test"][POPULARITY]
    n = metrics["cutoffs"][0]
    intervals = metrics["interval"]["test"].get("all", {})
    cells = [
        page.tile(
            f"{name} on test",
            _figure(best, name),
            ", ".join(filter(None, [_within(intervals.get(name)), _times(best, floor, name)])),
            main=True,
        )
        for name in (f"recall@{n}", f"ndcg@{n}")
    ]
    cells += [
        page.tile("items ranked", f"{metrics['num_items']:,}", "for every event"),
        page.tile(
            "test events", f"{metrics['targets']['test']:,}", f"of {metrics['users']:,} users"
        ),
    ]
    if "num_parameters" in history:
        cells.append(page.tile("parameters", _short(history["num_parameters"]), "trained"))
    return [
        f"<h1>{escape(facts.config['name'])}</h1>",
        page.paragraph(
            "Every user's next item, ranked exactly among all items.",
            "lead",
        ),
        page.tiles(cells),
    ]


def _figure(means: Mapping[str, float], name: str) -> str:
    return f"{means[name]:.4f}" if name in means else "-"


def _figures(means: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [_figure(means, name) for name in names]


def _within(interval: Sequence[float] | None) -> str:
    """Where the mean of other users like these would lie, in words."""
    if interval is None:
        return ""
    low, high = (f"{bound:.4f}".removeprefix("0") for bound in interval)
    return f"95% within {low} and {high}"


def _times(means: Mapping[str, float], floor: Mapping[str, float], name: str) -> str:
    """This value as a multiple of the floor's, in words."""
    if not floor.get(name):
        return ""
    return f"{means[name] / floor[name]:.1f} times popularity"


def _short(count: int) -> str:
    """1,234 as 1.2 k, 12,345,678 as 12.3 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
