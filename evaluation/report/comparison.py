"""comparison.html: runs on the same data. Every figure stands in their folders' files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from evaluation.cases import TOP, Told
from evaluation.evaluated_run import FinishedRun, labels_of
from evaluation.metrics.bootstrap import Difference
from evaluation.metrics.run_metrics import SliceMetrics
from evaluation.ranking import POPULARITY
from evaluation.report import html
from evaluation.report.cards import Cards, place
from evaluation.report.charts import learning_panels_of_runs, recall_panels_of_runs, series
from evaluation.report.data_section import flattened
from evaluation.report.run_report import competing, headline, kind_words
from evaluation.report.svg import Interval, interval_chart

ABSENT = "-"
EN_DASH = "\u2013"


@dataclass(frozen=True)
class Compared:
    """All that a comparison tells."""

    runs: Sequence[FinishedRun]
    apart: Sequence[Difference]  # of each run but the first, from it
    names: Sequence[str]  # of the metrics that these are of
    told: Sequence[Told]
    pictures: Mapping[str, str]  # data: URIs by asin

    @property
    def shown(self) -> list[str]:
        """The metrics that runs are told apart by."""
        n = self.runs[0].metrics.cutoffs[0]
        return [f"{metric}@{n}" for metric in ("recall", "ndcg")]


def comparison_page(compared: Compared) -> str:
    runs, first = compared.runs, compared.runs[0].metrics
    labels = labels_of(runs)
    by_label = dict(zip(labels, runs, strict=True))
    title = f"{len(runs)} runs compared"
    return html.page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            html.paragraph(
                f"{', '.join(run.name for run in runs)}: the same "
                f"{first.targets['test']:,} test events, each ranked {competing(first)}; "
                f"{first.num_items:,} items.",
                "lead",
            ),
            html.section(
                "Ranking quality",
                headline_table(compared),
                "The whole score on test events; below each mean, its 95% interval.",
            ),
            html.section(
                f"How far from {labels[0]}",
                difference_panels(compared, labels) + difference_table(compared, labels),
                "On the same events, user by user: a bootstrap gives 95% intervals and p.",
            ),
            html.section(
                "How far down the list",
                recall_panels_of_runs({name: run.metrics for name, run in by_label.items()}),
            ),
            html.section(
                "Training",
                learning_panels_of_runs({name: run.history for name, run in by_label.items()}),
            ),
            html.section("By target and user", slices_tables(compared, labels)),
            html.section("What sets their configurations apart", configuration_table(runs, labels)),
            html.section("Case study", case_section(compared, labels), case_note(compared)),
            html.footer(
                f"Data {first.dataset}. "
                + " ".join(f"{run.name}: weights {run.metrics.weights}." for run in runs)
            ),
        ],
    )


def headline_table(compared: Compared) -> str:
    names = headline(compared.runs[0].metrics.cutoffs)
    rows = []
    for run in compared.runs:
        means = run.metrics.split["test"]["all"]
        bounds = run.metrics.interval["test"]["all"]
        cells = [f"{means[n]:.4f}\n{_between(bounds[n], '.4f', EN_DASH)}" for n in names]
        rows.append([run.name, *cells])
    floor = compared.runs[0].metrics.split["test"][POPULARITY]
    rows.append([POPULARITY, *(f"{floor[name]:.4f}" for name in names)])
    styles = ["bounds"] * len(compared.runs) + ["floor"]
    return html.table(["run", *names], rows, styles)


def difference_panels(compared: Compared, labels: Sequence[str]) -> str:
    """The intervals of each metric under each other, in the runs' colours."""
    charts = []
    for name in compared.shown:
        metric = compared.names.index(name)
        intervals = [
            Interval(label, series(number), apart.means[metric], *apart.intervals[metric])
            for number, (label, apart) in enumerate(zip(labels[1:], compared.apart, strict=True), 1)
        ]
        charts.append((name, interval_chart(intervals, f"{name} less {labels[0]}'s")))
    return html.panels(charts)


def difference_table(compared: Compared, labels: Sequence[str]) -> str:
    rows = []
    for label, apart in zip(labels[1:], compared.apart, strict=True):
        for name in compared.shown:
            metric = compared.names.index(name)
            mean, within = apart.means[metric], _between(apart.intervals[metric], "+.4f", " to ")
            rows.append([label, name, f"{mean:+.4f}", within, f"{apart.p[metric]:.3f}"])
    header = ["run", "metric", f"less {labels[0]}'s", "95%", "p"]
    return html.table(header, rows, words=2) if rows else ""


def slices_tables(compared: Compared, labels: Sequence[str]) -> str:
    """A table for each metric: kinds of targets by run; a run without a kind has none."""
    slices = [run.metrics.slices["test"] for run in compared.runs]
    kinds = dict.fromkeys((name, kind) for of in slices for name in of for kind in of[name])
    found = {key: [of.get(key[0], {}).get(key[1]) for of in slices] for key in kinds}
    tables = []
    for metric in compared.shown if found else []:
        rows = [
            [
                kind_words(name, kind),
                f"{max(of.targets if of else 0 for of in by_run):,}",
                *(_of_whole(of, metric) for of in by_run),
            ]
            for (name, kind), by_run in found.items()
        ]
        tables.append((metric, html.table(["target", "events", *labels], rows)))
    return html.panels(tables)


def _of_whole(kind: SliceMetrics | None, metric: str) -> str:
    """A metric of the whole score, over the targets of a kind."""
    means = kind.channels["all"] if kind else {}
    return f"{means[metric]:.4f}" if metric in means else ABSENT


def configuration_table(runs: Sequence[FinishedRun], labels: Sequence[str]) -> str:
    """The keys whose values differ, the run's name left out."""
    configs = [dict(flattened(run.config)) for run in runs]
    rows = []
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [json.dumps(config[key]) if key in config else ABSENT for config in configs]
        if key != "name" and len(set(values)) > 1:
            rows.append([key, *values])
    return html.table(["key", *labels], rows, words=1 + len(runs)) if rows else ""


def case_section(compared: Compared, labels: Sequence[str]) -> str:
    """For each run, the user who tells most of it: history, target, what every run offers."""
    if not compared.told:
        return html.paragraph(
            "Not every run has a cases.json of these users and its ranks: evaluate them again.",
            "note",
        )
    return "".join(
        Cards(told.items, compared.pictures).case(
            f"Further up in {labels[told.run]}",
            told.cases[0],
            [
                (label, f"target at {place(case.rank['all'])}", case.top["all"])
                for label, case in zip(labels, told.cases, strict=True)
            ],
        )
        for told in compared.told
    )


def case_note(compared: Compared) -> str:
    cases = compared.runs[0].cases
    if not compared.told or cases is None:
        return ""
    return (
        f"Of {len(cases.cases)} users in equal steps through all, for each of the first runs the "
        "one whose target the others rank furthest below it, among those whose target it has in "
        f"its first {TOP}."
    )


def _between(bounds: Iterable[float], form: str, dash: str) -> str:
    low, high = bounds
    return f"{low:{form}}{dash}{high:{form}}".replace("0.", ".")
