"""Differences of runs from the first one, the baseline: in words, as a chart, as a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from evaluation.metrics.bootstrap import Difference, p_text, short
from evaluation.metrics.run_metrics import RunMetrics
from evaluation.report import html
from evaluation.report.charts import series_style
from evaluation.report.svg import Interval, interval_chart

HEAD = "recall@1"  # is the target at the head of the list?


@dataclass(frozen=True)
class Differences:
    """The differences of every run after the first from the first."""

    labels: Sequence[str]  # of all runs
    of_runs: Sequence[Difference]
    names: Sequence[str]  # of the metrics in a difference
    shown: Sequence[str]  # the main ones of these

    @property
    def baseline(self) -> str:
        return self.labels[0]

    def by_label(self) -> Iterator[tuple[str, Difference]]:
        return zip(self.labels[1:], self.of_runs, strict=True)

    def words(self, found: Difference, name: str) -> str:
        """Return the difference in one metric as words."""
        return found.words(self.names.index(name), self.baseline)


def difference_words(differences: Differences) -> list[str]:
    """Return a sentence for every run after the first and every main metric."""
    return [
        f"{label}: {name} is {differences.words(found, name)}."
        for label, found in differences.by_label()
        for name in differences.shown
    ]


def crossing_words(differences: Differences, runs: Sequence[RunMetrics]) -> list[str]:
    """Return a sentence for every run whose recall@1 says the opposite of its recall@N.

    N is the first cutoff, or the last if the first is 1. Where only one of the two differences is
    clear, the sentence says "hints at"; where none is, there is nothing to say. `runs` include the
    first.
    """
    n = max(runs[0].cutoffs) if runs[0].cutoffs[0] == 1 else runs[0].cutoffs[0]
    names = HEAD, f"recall@{n}"
    columns = [differences.names.index(name) for name in names]
    sentences = []
    for (label, found), run in zip(differences.by_label(), runs[1:], strict=True):
        clear = [found.is_clear(column) for column in columns]
        if found.means[columns].prod() < 0 and any(clear):
            verb = "says" if all(clear) else "hints at"
            texts = [f"{name} is {differences.words(found, name)}" for name in names]
            sentences.append(
                f"{label}: {HEAD} {verb} the opposite of recall@{n}. {', but '.join(texts)}."
                + _crossing_point(runs[0], run, n)
            )
    return sentences


def _crossing_point(first: RunMetrics, other: RunMetrics, most: int) -> str:
    """Return between which list lengths up to `most` the recall of two runs changes sides."""
    curves = [run.curve.recall["test"]["all"] for run in (first, other)]
    gaps = [
        (n, b - a) for n, a, b in zip(first.curve.n, *curves, strict=True) if n <= most and a != b
    ]
    for (before, gap), (after, next_gap) in pairwise(gaps):
        if gap * next_gap < 0:
            return f" The curves cross between N = {before} and N = {after}."
    return ""


def difference_panels(differences: Differences) -> str:
    """Draw a chart per main metric with the interval of every run, in the color of the run."""
    charts = []
    for name in differences.shown:
        metric = differences.names.index(name)
        intervals = [
            Interval(label, series_style(number), found.means[metric], *found.intervals[metric])
            for number, (label, found) in enumerate(differences.by_label(), 1)
        ]
        title = f"{name} better than {differences.baseline} by"
        charts.append((title, interval_chart(intervals, title)))
    return html.panels(charts)


def difference_table(differences: Differences) -> str:
    rows = []
    for label, found in differences.by_label():
        for name in differences.shown:
            metric = differences.names.index(name)
            interval = " to ".join(short(end, "+") for end in found.intervals[metric])
            mean = f"{found.means[metric]:+.4f}"
            rows.append([label, name, mean, interval, p_text(found.p[metric])])
    header = ["run", "metric", f"better than {differences.baseline} by", "95% interval", "p"]
    return html.table(header, rows, num_left=2) if rows else ""
