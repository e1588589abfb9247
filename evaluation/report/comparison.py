"""comparison.html: runs on the same data. Every figure comes from the files of the run folders."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from evaluation.cases import TOP, DistinctiveCase
from evaluation.evaluated_run import EvaluatedRun, run_labels
from evaluation.metrics.bootstrap import Difference
from evaluation.metrics.run_metrics import POPULARITY, SliceMetrics
from evaluation.report import html
from evaluation.report.cards import Cards, Strip, format_rank
from evaluation.report.charts import learning_panels_by_run, recall_panels_by_run, series_style
from evaluation.report.data_section import dotted_items
from evaluation.report.run_report import EN_DASH, candidates_text, headline_metrics, slice_name
from evaluation.report.svg import Interval, interval_chart

ABSENT = "-"


@dataclass(frozen=True)
class ComparisonData:
    """Everything that a comparison shows."""

    runs: Sequence[EvaluatedRun]
    differences: Sequence[Difference]  # of every run after the first, from the first
    metric_names: Sequence[str]  # of the metrics in `differences`
    cases: Sequence[DistinctiveCase]
    pictures: Mapping[str, str]  # data: URIs by item id

    @property
    def main_metrics(self) -> list[str]:
        n = self.runs[0].metrics.cutoffs[0]
        return [f"{metric}@{n}" for metric in ("recall", "ndcg")]


def comparison_page(data: ComparisonData) -> str:
    runs, first = data.runs, data.runs[0].metrics
    labels = run_labels(runs)
    by_label = dict(zip(labels, runs, strict=True))
    title = f"{len(runs)} runs compared"
    return html.page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            html.paragraph(
                f"{', '.join(run.name for run in runs)}. All on the same "
                f"{first.targets['test']:,} test events and {first.num_items:,} items; each "
                f"target is ranked {candidates_text(first)}.",
                "lead",
            ),
            html.section(
                "Ranking quality",
                headline_table(data),
                "All channels together, on the test events. Below each mean is its 95% interval.",
            ),
            html.section(
                f"Difference from {labels[0]}",
                difference_panels(data, labels) + difference_table(data, labels),
                "Paired by test event. A bootstrap over users gives the 95% intervals and p.",
            ),
            html.section(
                "Recall by list length",
                recall_panels_by_run({name: run.metrics for name, run in by_label.items()}),
            ),
            html.section(
                "Training",
                learning_panels_by_run({name: run.history for name, run in by_label.items()}),
            ),
            html.section("By target and user", slices_tables(data, labels)),
            html.section("Configuration differences", configuration_table(runs, labels)),
            html.section("Case study", case_section(data, labels), case_note(data)),
            html.footer(
                f"Data {first.dataset}. "
                + " ".join(f"{run.name}: weights {run.metrics.weights}." for run in runs)
            ),
        ],
    )


def headline_table(data: ComparisonData) -> str:
    names = headline_metrics(data.runs[0].metrics.cutoffs)
    rows = []
    for run in data.runs:
        means = run.metrics.split["test"]["all"]
        bounds = run.metrics.interval["test"]["all"]
        cells = [f"{means[n]:.4f}\n{_format_bounds(bounds[n], '.4f', EN_DASH)}" for n in names]
        rows.append([run.name, *cells])
    floor = data.runs[0].metrics.split["test"][POPULARITY]
    rows.append([POPULARITY, *(f"{floor[name]:.4f}" for name in names)])
    styles = ["bounds"] * len(data.runs) + ["floor"]
    return html.table(["run", *names], rows, styles)


def difference_panels(data: ComparisonData, labels: Sequence[str]) -> str:
    """Draw a chart per metric with the interval of every run, in the color of the run."""
    charts = []
    for name in data.main_metrics:
        metric = data.metric_names.index(name)
        intervals = [
            Interval(label, series_style(number), diff.means[metric], *diff.intervals[metric])
            for number, (label, diff) in enumerate(
                zip(labels[1:], data.differences, strict=True), 1
            )
        ]
        charts.append((name, interval_chart(intervals, f"{name} minus {labels[0]}'s")))
    return html.panels(charts)


def difference_table(data: ComparisonData, labels: Sequence[str]) -> str:
    rows = []
    for label, diff in zip(labels[1:], data.differences, strict=True):
        for name in data.main_metrics:
            metric = data.metric_names.index(name)
            mean = f"{diff.means[metric]:+.4f}"
            interval = _format_bounds(diff.intervals[metric], "+.4f", " to ")
            rows.append([label, name, mean, interval, f"{diff.p[metric]:.3f}"])
    header = ["run", "metric", f"minus {labels[0]}'s", "95% interval", "p"]
    return html.table(header, rows, num_left=2) if rows else ""


def slices_tables(data: ComparisonData, labels: Sequence[str]) -> str:
    """Return a table per metric: slices by run, with ABSENT where a run lacks the slice."""
    slices = [run.metrics.slices["test"] for run in data.runs]
    keys = dict.fromkeys(
        (slicing, name) for by_run in slices for slicing in by_run for name in by_run[slicing]
    )
    means = {
        (slicing, name): [by_run.get(slicing, {}).get(name) for by_run in slices]
        for slicing, name in keys
    }
    tables = []
    for metric in data.main_metrics if means else []:
        rows = [
            [
                slice_name(slicing, name),
                f"{max(each.targets if each else 0 for each in by_run):,}",
                *(_format_slice(each, metric) for each in by_run),
            ]
            for (slicing, name), by_run in means.items()
        ]
        tables.append((metric, html.table(["target", "events", *labels], rows)))
    return html.panels(tables)


def _format_slice(found: SliceMetrics | None, metric: str) -> str:
    means = found.channels["all"] if found else {}
    return f"{means[metric]:.4f}" if metric in means else ABSENT


def configuration_table(runs: Sequence[EvaluatedRun], labels: Sequence[str]) -> str:
    """Return the keys whose values differ between the runs, without `name`."""
    configs = [dict(dotted_items(run.config)) for run in runs]
    rows = []
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [json.dumps(config[key]) if key in config else ABSENT for config in configs]
        if key != "name" and len(set(values)) > 1:
            rows.append([key, *values])
    return html.table(["key", *labels], rows, num_left=1 + len(runs)) if rows else ""


def case_section(data: ComparisonData, labels: Sequence[str]) -> str:
    """Show one user per run: history, target, and the items that every run recommends."""
    if not data.cases:
        return html.paragraph(
            "The runs have no cases.json of the same users and of their current ranks: "
            "evaluate them again.",
            "note",
        )
    return "".join(
        Cards(found.items, data.pictures).case_panel(
            f"Target ranked higher by {labels[found.run]}",
            found.cases[0],
            [
                Strip(label, f"target at {format_rank(case.rank['all'])}", case.top["all"])
                for label, case in zip(labels, found.cases, strict=True)
            ],
        )
        for found in data.cases
    )


def case_note(data: ComparisonData) -> str:
    cases = data.runs[0].cases
    if not data.cases or cases is None:
        return ""
    return (
        f"Chosen from {len(cases.cases)} evenly spaced test users. For each of the first runs: the "
        "user whose target the other runs rank furthest below it, among those whose target is in "
        f"the run's first {TOP}."
    )


def _format_bounds(bounds: Iterable[float], form: str, dash: str) -> str:
    low, high = bounds
    return f"{low:{form}}{dash}{high:{form}}".replace("0.", ".")
