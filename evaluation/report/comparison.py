"""comparison.html: runs on the same data. Every figure comes from the files of the run folders."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from evaluation.cases import TOP, DistinctiveCase
from evaluation.evaluated_run import EvaluatedRun
from evaluation.metrics.run_metrics import RunMetrics, baselines_of
from evaluation.metrics.shared_slices import SharedSlice
from evaluation.report import html
from evaluation.report.cards import Cards, Strip, format_rank
from evaluation.report.channels import channel_name
from evaluation.report.charts import (
    Learning,
    learning_panels_by_run,
    objective,
    recall_panels_by_run,
)
from evaluation.report.data_section import dotted_items
from evaluation.report.differences import (
    Differences,
    crossing_words,
    difference_panels,
    difference_table,
    difference_words,
)
from evaluation.report.head import FACTS, run_facts
from evaluation.report.run_report import EN_DASH, candidates_text, headline_metrics
from evaluation.report.slices import ABSENT, BOUND, shared_slices_tables

SHARED = "Slices belong to the data: each holds the same test events for every run."
STORED = "The runs' data set has changed or moved, so these slices are those that each run stored."


@dataclass(frozen=True)
class ComparisonData:
    """Everything that a comparison shows."""

    runs: Sequence[EvaluatedRun]
    differences: Differences
    slices: Sequence[SharedSlice]
    slices_are_shared: bool  # or else each run's own
    cases: Sequence[DistinctiveCase]
    pictures: Mapping[str, str]  # data: URIs by item id

    @property
    def labels(self) -> Sequence[str]:
        return self.differences.labels

    @property
    def metrics(self) -> list[RunMetrics]:
        return [run.metrics for run in self.runs]


def comparison_page(data: ComparisonData) -> str:
    runs, labels, first = data.runs, data.labels, data.runs[0].metrics
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
            facts_table(runs),
            html.section(
                "Ranking quality",
                headline_table(data),
                "All channels together, on the test events. Below each mean is its 95% interval.",
            ),
            html.section(
                f"Better than {labels[0]} by",
                differences_section(data),
                f"{labels[0]}, the first run, is the baseline. Differences are paired by test "
                "event; a bootstrap over users gives the 95% intervals and p.",
            ),
            html.section(
                "Recall by list length",
                recall_panels_by_run({name: run.metrics for name, run in by_label.items()}),
                " ".join(crossing_words(data.differences, data.metrics)),
            ),
            html.section(
                "Training",
                learning_panels_by_run(
                    [
                        Learning(name, run.history, objective(run.config, name))
                        for name, run in by_label.items()
                    ]
                ),
                "Losses share an axis only where the runs minimize the same objective.",
            ),
            html.section(
                "By target and user",
                shared_slices_tables(data.slices, data.differences.shown, labels),
                f"{SHARED if data.slices_are_shared else STORED} {BOUND}",
            ),
            html.section("Configuration differences", configuration_table(runs, labels)),
            html.section("Case study", case_section(data, labels), case_note(data)),
            html.footer(
                f"Data {first.dataset}. "
                + " ".join(f"{run.name}: weights {run.metrics.weights}." for run in runs)
            ),
        ],
    )


def facts_table(runs: Sequence[EvaluatedRun]) -> str:
    """Return what was trained, when, by what and where, with a row per run."""
    rows = [[run.name, *run_facts(run.config, run.history).values()] for run in runs]
    return html.table(["run", *FACTS], rows, num_left=1 + len(FACTS))


def differences_section(data: ComparisonData) -> str:
    words = [*difference_words(data.differences), *crossing_words(data.differences, data.metrics)]
    return (
        html.sentences(words)
        + difference_panels(data.differences)
        + difference_table(data.differences)
    )


def headline_table(data: ComparisonData) -> str:
    names = headline_metrics(data.runs[0].metrics.cutoffs)
    rows = []
    for run in data.runs:
        means = run.metrics.split["test"]["all"]
        bounds = run.metrics.interval["test"]["all"]
        cells = [f"{means[n]:.4f}\n{_format_bounds(bounds[n], '.4f', EN_DASH)}" for n in names]
        rows.append([run.name, *cells])
    for baseline, metrics in baselines_of(data.metrics).items():
        means = metrics.split["test"][baseline]
        rows.append([channel_name(baseline), *(f"{means[name]:.4f}" for name in names)])
    styles = ["bounds"] * len(data.runs) + ["floor"] * (len(rows) - len(data.runs))
    return html.table(["run", *names], rows, styles)


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
