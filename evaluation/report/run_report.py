"""report.html of a run.

Every figure comes from metrics.json, history.json or the manifest of a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from evaluation.cases import TOP, Case, Cases
from evaluation.metrics.coverage import list_metrics_text
from evaluation.metrics.run_metrics import BASELINES, ITEMKNN, RunMetrics
from evaluation.report import html
from evaluation.report.cards import Cards, Strip, format_rank
from evaluation.report.channels import channel_name, channel_sentences
from evaluation.report.charts import learning_panels, recall_panels, training_note
from evaluation.report.data_section import Manifests, configuration_table, data_section
from evaluation.report.head import run_facts, start_facts
from evaluation.report.slices import BOUND, slices_table

EN_DASH = "\u2013"


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows."""

    config: Mapping[str, Any]  # resolved
    metrics: RunMetrics
    history: Mapping[str, Any]
    manifests: Manifests
    next_steps: Sequence[str]
    cases: Cases
    pictures: Mapping[str, str]  # data: URIs by item id
    appended: str | None = None  # which items got their rows after the training


def report_page(data: ReportData) -> str:
    return html.page(
        f"{data.config['name']}: report",
        [
            *_head(data),
            html.section(
                "Ranking quality",
                channel_table(data.metrics) + channel_list(data.metrics),
                f"Each test event's target is ranked {candidates_text(data.metrics)}, without "
                "sampling. A tie counts as the average over random orders of the tied items.",
            ),
            html.section("Recall by list length", recall_panels(data.metrics)),
            html.section("Training", learning_panels(data.history), training_note(data.history)),
            html.section(
                "By target and user",
                slices_table(data.metrics),
                f"recall@{data.metrics.cutoffs[0]} on test events, by whether the target has a "
                "modality, its category, how often it occurs in training, and how many training "
                f"events its user has. {BOUND}",
            ),
            html.section("Recommendation lists", list_tiles(data.metrics)),
            html.section("Case study", case_section(data), case_note(data)),
            html.section(
                "Data", data_section(data.manifests), "Counters of the tables that the ETL built."
            ),
            html.section("Next commands", html.commands(data.next_steps)),
            html.collapsed("Configuration", configuration_table(data.config)),
            html.footer(
                f"Weights {data.metrics.weights}, data {data.metrics.dataset}, "
                f"ranks {data.metrics.ranks}. All metrics are computed from the ranks table."
            ),
        ],
    )


def candidates_text(metrics: RunMetrics) -> str:
    """Return which items a target is ranked among, as text."""
    new = "the items that its user had not interacted with before"
    return f"among {new if metrics.exclude_seen else 'all items'}"


def headline_metrics(cutoffs: Sequence[int]) -> list[str]:
    return [f"{metric}@{n}" for metric in ("recall", "ndcg") for n in cutoffs]


def channel_rows(metrics: RunMetrics) -> list[list[str]]:
    """Return a row per channel: recall@N and ndcg@N on the test events."""
    names = headline_metrics(metrics.cutoffs)
    return [
        [channel_name(channel), *(_format_mean(means, name) for name in names)]
        for channel, means in metrics.split["test"].items()
    ]


def channel_table(metrics: RunMetrics) -> str:
    header = ["channel", *headline_metrics(metrics.cutoffs)]
    styles = ["main" if c == "all" else "floor" * (c in BASELINES) for c in metrics.split["test"]]
    return html.table(header, channel_rows(metrics), styles)


def channel_list(metrics: RunMetrics) -> str:
    """Return a sentence on every channel."""
    text = html.definitions(channel_sentences(metrics), "channels")
    if ITEMKNN in metrics.split["test"]:
        return text
    missing = "ItemKNN is not ranked: the data set has too many pairs of items for it, or none."
    return text + html.paragraph(missing, "note")


def list_tiles(metrics: RunMetrics) -> str:
    """Return coverage and popularity lift, or "" without recommendations of these weights."""
    lists = metrics.lists
    if lists is None:
        return ""
    names = "coverage", "popularity lift"
    figures = (sentence.split(" ", 1) for sentence in list_metrics_text(lists))
    return html.tiles(
        [html.tile(name, value, note) for name, (value, note) in zip(names, figures, strict=True)]
    )


def case_section(data: ReportData) -> str:
    """Show one user per channel: history, target, recommended items, the target's neighbors."""
    cards = Cards(data.cases.items, data.pictures)
    return "".join(
        cards.case_panel(
            f"Target ranked {format_rank(case.rank['all'])} by all channels, "
            f"{format_rank(case.rank[channel])} by {channel_name(channel)}",
            case,
            [*_recommended_strips(case), *_neighbor_strips(case)],
        )
        for channel, case in data.cases.by_channel()
    )


def case_note(data: ReportData) -> str:
    note = (
        f"Chosen from {len(data.cases.cases)} evenly spaced test users. For each channel: the user "
        "whose target it ranks furthest below all channels together, among those whose target is "
        f"in the first {TOP} of all channels together. A channel's strip shows the items with its "
        f"highest scores {candidates_text(data.metrics)}."
    )
    if data.cases.pictures:
        shown = data.cases.item_ids(case for _, case in data.cases.by_channel())
        note += f" {len(data.pictures)} of {len(shown)} items have a picture."
    return note


def _neighbor_strips(case: Case) -> list[Strip]:
    return [
        Strip(
            f"{modality} neighbors",
            "of the target" if items else "the target has none",
            items,
        )
        for modality, items in case.neighbors.items()
    ]


def _recommended_strips(case: Case) -> list[Strip]:
    return [
        Strip(channel_name(channel), f"target at {format_rank(case.rank[channel])}", items)
        for channel, items in case.top.items()
    ]


def _head(data: ReportData) -> list[str]:
    metrics, history = data.metrics, data.history
    best, n = metrics.split["test"].get("all", {}), metrics.cutoffs[0]
    intervals = metrics.interval["test"].get("all", {})
    cells = [
        html.tile(
            f"test {name}",
            _format_mean(best, name),
            ", ".join([*_interval_text(intervals.get(name)), *_ratios(metrics, name)]),
            main=True,
        )
        for name in (f"recall@{n}", f"ndcg@{n}")
    ]
    cells += [
        html.tile("items", f"{metrics.num_items:,}", "ranked for each event"),
        html.tile("test events", f"{metrics.targets['test']:,}", f"of {metrics.users:,} users"),
    ]
    if "num_parameters" in history:
        cells.append(html.tile("parameters", _short_count(history["num_parameters"]), "trained"))
    return [
        f"<h1>{escape(data.config['name'])}</h1>",
        html.paragraph("Next-item prediction, evaluated by exact ranking.", "lead"),
        html.definitions(
            [
                *run_facts(data.config, history).items(),
                *start_facts(history, data.appended).items(),
            ],
            "facts",
        ),
        html.tiles(cells),
    ]


def _format_mean(means: Mapping[str, float], name: str) -> str:
    return f"{means[name]:.4f}" if name in means else "-"


def _interval_text(interval: Sequence[float] | None) -> list[str]:
    if interval is None:
        return []
    low, high = (f"{bound:.4f}".removeprefix("0") for bound in interval)
    return [f"95% interval {low}{EN_DASH}{high}"]


def _ratios(metrics: RunMetrics, name: str) -> list[str]:
    """Return the ratio to each baseline as text."""
    means = metrics.split["test"]
    return [
        f"{means['all'][name] / means[baseline][name]:.1f} times {channel_name(baseline)}"
        for baseline in BASELINES
        if means.get(baseline, {}).get(name)
    ]


def _short_count(count: int) -> str:
    """Return `1.2 k` for 1,234 and `12.3 M` for 12,345,678."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
