"""Comparison of runs on the same data: a table on the screen, and a page."""

from collections.abc import Sequence

from evaluation.cases import distinctive_cases
from evaluation.evaluated_run import EvaluatedRun
from evaluation.metrics.bootstrap import difference
from evaluation.metrics.events import read_events
from evaluation.metrics.run_metrics import POPULARITY
from evaluation.report.comparison import ComparisonData, comparison_page
from evaluation.report.pictures import load_thumbnails
from evaluation.report.run_report import candidates_text, headline_metrics
from mdsrec import files
from mdsrec.config.section import absolute
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from mdsrec.text import text_table

# Fields of metrics.json that must be equal, and their names in error texts.
SAME = {"dataset": "data", "cutoffs": "eval.cutoffs", "exclude_seen": "eval.exclude_seen"}
PAGE = "comparison.html"


def compare_runs(folders: Sequence[str], out: str | None = None) -> str:
    """Write the comparison page -> test metrics and differences from the first run, as text.

    The page is written to `out`, by default to PAGE in the first folder.
    """
    runs = [EvaluatedRun.read(absolute(folder).rstrip("/")) for folder in folders]
    _check_comparable(runs)
    data = _comparison_data(runs)
    page = absolute(out) if out else f"{runs[0].uri}/{PAGE}"
    files.write_bytes(page, comparison_page(data).encode())
    first = runs[0].metrics
    terms = (
        f"{first.targets['test']:,} test events, {first.num_items:,} items, "
        f"each ranked {candidates_text(first)}"
    )
    differences = [_difference_table(data), ""] if len(runs) > 1 else []
    pages = [*(f"report  {RunPaths(run.uri).report}" for run in runs), f"page    {page}"]
    return "\n".join([terms, "", _metrics_table(data), "", *differences, *pages])


def _check_comparable(runs: Sequence[EvaluatedRun]) -> None:
    first = runs[0]
    for run in runs:
        if not run.metrics.targets["test"]:
            raise InputError(f"{run.uri}: there are no test events, so nothing to compare")
        for field, name in SAME.items():
            value, expected = getattr(run.metrics, field), getattr(first.metrics, field)
            if value != expected:
                raise InputError(
                    f"{run.uri}: its {name} ({value}) differs from {first.uri}'s ({expected}): "
                    "compare only runs with the same data and the same [eval] section"
                )


def _comparison_data(runs: Sequence[EvaluatedRun]) -> ComparisonData:
    cutoffs = tuple(runs[0].metrics.cutoffs)
    first, *others = (read_events(run.uri, cutoffs) for run in runs)
    differences = [difference(other.users, other.values, first.values) for other in others]
    cases = distinctive_cases([run.cases for run in runs])
    folder = next((run.cases.pictures for run in runs if run.cases and run.cases.pictures), None)
    ids = {item_id for case in cases for item_id in case.item_ids()}
    pictures = load_thumbnails(folder, sorted(ids))
    return ComparisonData(runs, differences, first.names, cases, pictures)


def _metrics_table(data: ComparisonData) -> str:
    """Return the test metrics of each run, and of popularity."""
    rows = [(run.name, run.metrics.split["test"]["all"]) for run in data.runs]
    rows.append((POPULARITY, data.runs[0].metrics.split["test"][POPULARITY]))
    names = headline_metrics(data.runs[0].metrics.cutoffs)
    return text_table(
        ["run", *names], [[name, *(f"{means[key]:.4f}" for key in names)] for name, means in rows]
    )


def _difference_table(data: ComparisonData) -> str:
    """Return each run minus the first one on the same test events: mean, 95% interval, p."""
    metrics = data.main_metrics
    indices = [data.metric_names.index(name) for name in metrics]
    rows = [
        [run.name, *(each.text(index) for index in indices)]
        for run, each in zip(data.runs[1:], data.differences, strict=True)
    ]
    return text_table([f"minus {data.runs[0].name}", *metrics], rows)
