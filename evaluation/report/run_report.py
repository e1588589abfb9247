"""report.html of a run. Every figure stands in metrics.json, history.json or a table's manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from evaluation.cases import TOP, Case, Cases
from evaluation.metrics.coverage import list_metrics_text
from evaluation.metrics.run_metrics import RunMetrics
from evaluation.ranking import POPULARITY
from evaluation.report import html
from evaluation.report.cards import Cards, Strip, place
from evaluation.report.charts import channel_name, learning_panels, recall_panels, training_note
from evaluation.report.data_section import Manifests, configuration_table, data_section


@dataclass(frozen=True)
class Facts:
    """All that a report tells."""

    config: Mapping[str, Any]  # resolved
    metrics: RunMetrics
    history: Mapping[str, Any]
    manifests: Manifests
    next_steps: Sequence[str]
    cases: Cases
    pictures: Mapping[str, str]  # data: URIs by asin


def report(facts: Facts) -> str:
    return html.page(
        f"{facts.config['name']}: report",
        [
            *_head(facts),
            html.section(
                "Ranking quality",
                channel_table(facts.metrics),
                f"Test events, each ranked {competing(facts.metrics)}, none sampled. "
                "Tied items count as a random order of them would.",
            ),
            html.section("How far down the list", recall_panels(facts.metrics)),
            html.section("Training", learning_panels(facts.history), training_note(facts.history)),
            html.section(
                "By target and user",
                slices_table(facts.metrics),
                f"recall@{facts.metrics.cutoffs[0]} on test events, by whether the target has "
                "the modality, how often it was trained, and how many events its user trained.",
            ),
            html.section("What users are given", lists_tiles(facts.metrics)),
            html.section("Case study", case_section(facts), case_note(facts)),
            html.section(
                "Data", data_section(facts.manifests), "Counted while the tables were made."
            ),
            html.section("Next", html.commands(facts.next_steps)),
            html.collapsed("Configuration", configuration_table(facts.config)),
            html.footer(
                f"Weights {facts.metrics.weights}, data {facts.metrics.dataset}, "
                f"ranks {facts.metrics.ranks}. Metrics are reductions of the ranks table."
            ),
        ],
    )


def competing(metrics: RunMetrics) -> str:
    """What every target is ranked among, in words."""
    seen = "the items that its user had not before" if metrics.exclude_seen else "all items"
    return f"among {seen}"


def headline(cutoffs: Sequence[int]) -> list[str]:
    return [f"{metric}@{n}" for metric in ("recall", "ndcg") for n in cutoffs]


def channel_rows(metrics: RunMetrics) -> list[list[str]]:
    """recall@N and ndcg@N of each channel on the test events."""
    return [
        [channel_name(channel), *_figures(means, headline(metrics.cutoffs))]
        for channel, means in metrics.split["test"].items()
    ]


def channel_table(metrics: RunMetrics) -> str:
    styles = [
        {"all": "main", POPULARITY: "floor"}.get(channel, "") for channel in metrics.split["test"]
    ]
    return html.table(["channel", *headline(metrics.cutoffs)], channel_rows(metrics), styles)


def slices_table(metrics: RunMetrics) -> str:
    """recall at the first cutoff of every channel, by kinds of targets and users."""
    first = f"recall@{metrics.cutoffs[0]}"
    channels = list(metrics.split["test"])
    rows = [
        [
            kind_words(name, kind),
            f"{found.targets:,}",
            *(_figure(found.channels[channel], first) for channel in channels),
        ]
        for name, kinds in metrics.slices["test"].items()
        for kind, found in kinds.items()
    ]
    return html.table(["target", "events", *map(channel_name, channels)], rows) if rows else ""


def lists_tiles(metrics: RunMetrics) -> str:
    """What the recommendations are like; nothing where there are none of these weights."""
    lists = metrics.lists
    if lists is None:
        return ""
    names = "coverage", "popularity lift"
    figures = (sentence.split(" ", 1) for sentence in list_metrics_text(lists))
    return html.tiles(
        [html.tile(name, value, note) for name, (value, note) in zip(names, figures, strict=True)]
    )


def kind_words(slices: str, kind: str) -> str:
    """A kind of targets in words."""
    return {"training events": kind, "history": f"user with {kind}"}.get(slices, f"{kind} {slices}")


def case_section(facts: Facts) -> str:
    """For each channel, the user who tells most of it: history, target, neighbours, offers."""
    cards = Cards(facts.cases.items, facts.pictures)
    return "".join(
        cards.case(
            f"Target ranked {place(case.rank['all'])} by all channels, "
            f"{place(case.rank[channel])} by {channel_name(channel)}",
            case,
            [*_offer_strips(case), *_neighbor_strips(case)],
        )
        for channel, case in facts.cases.by_channel()
    )


def case_note(facts: Facts) -> str:
    note = (
        f"Of {len(facts.cases.cases)} users in equal steps through all, for each channel the one "
        "whose target it ranks furthest below the whole score, among those whose target the whole "
        f"score has in its first {TOP}. Offered is what scores highest {competing(facts.metrics)}."
    )
    if facts.cases.pictures:
        shown = facts.cases.asins(case for _, case in facts.cases.by_channel())
        note += f" {len(facts.pictures)} of {len(shown)} items have a picture."
    return note


def _neighbor_strips(case: Case) -> list[Strip]:
    return [
        (f"near in {modality}", "to the target" if items else "the target has none", items)
        for modality, items in case.neighbors.items()
    ]


def _offer_strips(case: Case) -> list[Strip]:
    return [
        (channel_name(channel), f"target at {place(case.rank[channel])}", items)
        for channel, items in case.top.items()
    ]


def _head(facts: Facts) -> list[str]:
    metrics, history = facts.metrics, facts.history
    best, floor = metrics.split["test"].get("all", {}), metrics.split["test"][POPULARITY]
    n = metrics.cutoffs[0]
    intervals = metrics.interval["test"].get("all", {})
    cells = [
        html.tile(
            f"{name} on test",
            _figure(best, name),
            ", ".join(filter(None, [_within(intervals.get(name)), _times(best, floor, name)])),
            main=True,
        )
        for name in (f"recall@{n}", f"ndcg@{n}")
    ]
    cells += [
        html.tile("items ranked", f"{metrics.num_items:,}", "for every event"),
        html.tile("test events", f"{metrics.targets['test']:,}", f"of {metrics.users:,} users"),
    ]
    if "num_parameters" in history:
        cells.append(html.tile("parameters", _short(history["num_parameters"]), "trained"))
    return [
        f"<h1>{escape(facts.config['name'])}</h1>",
        html.paragraph(
            "Every user's next item, ranked exactly among all items.",
            "lead",
        ),
        html.tiles(cells),
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
