"""Runs on the same data side by side: a table on the screen, and a page."""

from collections.abc import Sequence

from evaluation.cases import told_apart
from evaluation.evaluated_run import FinishedRun, finished_run
from evaluation.metrics.bootstrap import difference
from evaluation.metrics.events import events_of
from evaluation.report.comparison import ComparisonData, comparison_page
from evaluation.report.pictures import load_thumbnails
from evaluation.report.run_report import candidates_text, headline_metrics
from mdsrec import files
from mdsrec.config.section import absolute
from mdsrec.errors import InputError

SAME = {"dataset": "data", "cutoffs": "eval.cutoffs", "exclude_seen": "rule on seen items"}
PAGE = "comparison.html"


def comparison(folders: Sequence[str], out: str | None = None) -> str:
    """Test metrics of the whole score of each run, and popularity's; how far each run is from the
    first; where their reports lie, and the page that shows all of it: `out`, or PAGE in the first
    run's folder.
    """
    runs = [finished_run(absolute(folder).rstrip("/")) for folder in folders]
    _check_same_terms(runs)
    compared = _compared(runs)
    page = absolute(out) if out else f"{runs[0].uri}/{PAGE}"
    files.write_bytes(page, comparison_page(compared).encode())
    reports = [*(f"report  {run.uri}/report.html" for run in runs), f"page    {page}"]
    apart = [_differences(compared), ""] if len(runs) > 1 else []
    first = runs[0].metrics
    terms = (
        f"{first.targets['test']:,} test events, {first.num_items:,} items, "
        f"each ranked {candidates_text(first)}"
    )
    return "\n".join([terms, "", _headline(compared), "", *apart, *reports])


def _check_same_terms(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for run in runs:
        if not run.metrics.targets["test"]:
            raise InputError(f"{run.uri}: without test events there is nothing to compare")
        for key, words in SAME.items():
            if getattr(run.metrics, key) != getattr(first.metrics, key):
                raise InputError(
                    f"{run.uri}: its {words} ({getattr(run.metrics, key)}) differ from "
                    f"{first.uri}'s ({getattr(first.metrics, key)}): compare runs on equal terms"
                )


def _compared(runs: Sequence[FinishedRun]) -> ComparisonData:
    cutoffs = tuple(runs[0].metrics.cutoffs)
    first, *others = (events_of(run.uri, cutoffs) for run in runs)
    apart = [difference(other.users, other.values, first.values) for other in others]
    told = told_apart([run.cases for run in runs])
    folder = next((run.cases.pictures for run in runs if run.cases and run.cases.pictures), None)
    shown = {asin for each in told for asin in each.asins()}
    return ComparisonData(runs, apart, first.names, told, load_thumbnails(folder, sorted(shown)))


def _headline(compared: ComparisonData) -> str:
    rows = [(run.name, run.metrics.split["test"]["all"]) for run in compared.runs]
    rows.append(("popularity", compared.runs[0].metrics.split["test"]["popularity"]))
    names = headline_metrics(compared.runs[0].metrics.cutoffs)
    return text_table(
        ["run", *names], [[name, *(f"{means[key]:.4f}" for key in names)] for name, means in rows]
    )


def _differences(compared: ComparisonData) -> str:
    """Each run less the first on the same test events: mean, 95% interval, p."""
    rows = [
        [
            run.name,
            *(apart.words(compared.metric_names.index(name)) for name in compared.main_metrics),
        ]
        for run, apart in zip(compared.runs[1:], compared.differences, strict=True)
    ]
    return text_table([f"less {compared.runs[0].name}", *compared.main_metrics], rows)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell: the first to the left, figures to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
