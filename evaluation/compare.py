"""Comparison of runs on the same data: a table on the screen, and a page."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from evaluation.cases import distinctive_cases
from evaluation.evaluated_run import EvaluatedRun, run_labels
from evaluation.metrics.bootstrap import Difference
from evaluation.metrics.events import Ranking, aligned_events, metric_names
from evaluation.metrics.many_users import ManyUsers
from evaluation.metrics.run_metrics import baselines_of
from evaluation.metrics.shared_slices import SharedSlice, SharedSlices, stored_slices
from evaluation.metrics.slices import (
    TRAINING_EVENTS,
    USER_HISTORY,
    Slicing,
    modalities_of_data,
    read_slicings,
)
from evaluation.report.channels import channel_name
from evaluation.report.comparison import ComparisonData, comparison_page
from evaluation.report.differences import Differences, crossing_words, difference_words
from evaluation.report.pictures import load_thumbnails
from evaluation.report.run_report import candidates_text, headline_metrics
from mdsrec import files, tables
from mdsrec.config.section import absolute, listed
from mdsrec.errors import InputError
from mdsrec.jobs.promises import promised
from mdsrec.run_paths import RunPaths, former_tables
from mdsrec.text import text_table

# Fields of metrics.json that must be equal, and their names in error texts.
SAME = {"dataset": "data", "cutoffs": "eval.cutoffs", "exclude_seen": "eval.exclude_seen"}
PAGE = "comparison.html"
GATE_METRIC = "ndcg@10"

log = logging.getLogger("evaluation")


def compare_runs(folders: Sequence[str], out: str | None = None) -> str:
    """Write the comparison page -> test metrics and differences from the first run, as text.

    The page is written to `out`, by default to PAGE in the first folder.
    """
    return _write_page(_compared(folders), out)


class Gated(NamedTuple):
    """A comparison with a gate: whether the first run may take the place of another."""

    screen: str
    is_worse: bool


def compare_with_gate(
    folders: Sequence[str], gate: str, metric: str = GATE_METRIC, out: str | None = None
) -> Gated:
    """Compare runs as `compare_runs` does, and the first one with the run `gate`.

    It is worse where the 95% interval of its difference in `metric` lies wholly below 0, paired by
    test event. So noise does not close the gate, and a loss within the noise does not either.
    """
    first, gate = _folder(folders[0]), _folder(gate)
    if first == gate:
        raise InputError(f"{gate}: compared with itself: --no-worse-than needs another run")
    data = _compared([*folders, gate])
    names, number = list(data.differences.names), [run.uri for run in data.runs].index(gate)
    if metric not in names:
        raise InputError(f"--metric {metric}: the runs have none of that name: {listed(names)}")
    found, index = data.differences.of_runs[number - 1].reversed(), names.index(metric)
    candidate, other = data.runs[0], data.runs[number]
    same = candidate.name == other.name
    named, baseline = (run.uri if same else run.name for run in (candidate, other))
    line = f"gate    {named}: {metric} is {found.words(index, baseline)}"
    return Gated(f"{_write_page(data, out)}\n{line}", found.is_worse(index))


def _compared(folders: Sequence[str]) -> ComparisonData:
    """Read and compare the runs, each once."""
    runs = [EvaluatedRun.read(uri) for uri in dict.fromkeys(map(_folder, folders))]
    _check_comparable(runs)
    return _comparison_data(runs)


def _folder(folder: str) -> str:
    return absolute(folder).rstrip("/")


def _write_page(data: ComparisonData, out: str | None) -> str:
    runs = data.runs
    page = absolute(out) if out else f"{runs[0].uri}/{PAGE}"
    files.write_bytes(page, comparison_page(data).encode())
    first = runs[0].metrics
    terms = (
        f"{first.targets['test']:,} test events, {first.num_items:,} items, "
        f"each ranked {candidates_text(first)}"
    )
    differences = [_difference_table(data), "", *_sentences(data), ""] if len(runs) > 1 else []
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
    slicings = _slicings(runs)
    differences, slices = _compare_events(runs, slicings)
    metrics = [run.metrics for run in runs]
    slices = slices if slicings else stored_slices(metrics)
    cases = distinctive_cases([run.cases for run in runs])
    folder = next((run.cases.pictures for run in runs if run.cases and run.cases.pictures), None)
    ids = {item_id for case in cases for item_id in case.item_ids()}
    pictures = load_thumbnails(folder, sorted(ids))
    return ComparisonData(runs, differences, slices, bool(slicings), cases, pictures)


def _compare_events(
    runs: Sequence[EvaluatedRun], slicings: Mapping[str, Slicing]
) -> tuple[Differences, list[SharedSlice]]:
    """Compare the test events of all runs, with metrics at the runs' cutoffs and at 1."""
    cutoffs, n = tuple(sorted({1, *runs[0].metrics.cutoffs})), runs[0].metrics.cutoffs[0]
    names = metric_names(cutoffs)
    paired = [ManyUsers() for _ in runs[1:]]
    slices = SharedSlices(slicings, names, len(runs))
    rankings = [Ranking(run.uri, ranks=run.metrics.ranks) for run in runs]
    for events in aligned_events(rankings, cutoffs):
        slices.add(events)
        for users, other in zip(paired, events[1:], strict=True):
            users.add(other.users, other.values - events[0].values)
    of_runs = [Difference.of(users.sums()) for users in paired]
    shown = [f"{metric}@{n}" for metric in ("recall", "ndcg")]
    return Differences(run_labels(runs), of_runs, names, shown), slices.found()


def _slicings(runs: Sequence[EvaluatedRun]) -> dict[str, Slicing]:
    """Read the slicings of the runs' data from its tables, with the modalities of all runs.

    Returns {} if the tables of no run are there any more as they were.
    """
    found: dict[str, Slicing] = {}
    for run in runs:
        root = run.uri.rsplit("/", 2)[0]
        try:
            with promised(former_tables(run.uri)):
                sequences = tables.read_manifest(tables.table_uri(root, "sequences"))
                if sequences is None or sequences.fingerprint != run.metrics.dataset:
                    continue
                features = [*run.config.get("features", {}), *run.metrics.slices["test"]]
                known = dict.fromkeys(features)
                names = [name for name in known if name not in (TRAINING_EVENTS, USER_HISTORY)]
                modalities = modalities_of_data(root, names)
                read = read_slicings(root, modalities, run.metrics.num_items)
        except InputError as error:
            log.warning("%s: its slices cannot be read: %s", run.uri, error)
            continue
        found = {**read, **found}
    return found


def _metrics_table(data: ComparisonData) -> str:
    """Return the test metrics of each run, and of the baselines."""
    rows = [(run.name, run.metrics.split["test"]["all"]) for run in data.runs]
    rows += [
        (channel_name(name), metrics.split["test"][name])
        for name, metrics in baselines_of(data.metrics).items()
    ]
    names = headline_metrics(data.runs[0].metrics.cutoffs)
    return text_table(
        ["run", *names], [[name, *(f"{means[key]:.4f}" for key in names)] for name, means in rows]
    )


def _sentences(data: ComparisonData) -> list[str]:
    """Return the differences in words, as on the page, with the names of the table."""
    named = replace(data.differences, labels=[run.name for run in data.runs])
    return [*difference_words(named), *crossing_words(named, data.metrics)]


def _difference_table(data: ComparisonData) -> str:
    """Return the difference of each run to the first on the same test events.

    A cell has the mean difference, its 95% interval and p. A positive one is better.
    """
    found = data.differences
    rows = [
        [run.name, *(each.text(found.names.index(name)) for name in found.shown)]
        for run, each in zip(data.runs[1:], found.of_runs, strict=True)
    ]
    return text_table([f"difference to {data.runs[0].name}", *found.shown], rows)
