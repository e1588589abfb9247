"""Charts of recall by list length, and of loss and validation metric by epoch."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evaluation.metrics.run_metrics import (
    BASELINES,
    ITEMKNN,
    POPULARITY,
    RunMetrics,
    baselines_of,
)
from evaluation.report import html
from evaluation.report.channels import channel_name
from evaluation.report.svg import Line, line_chart

SHOWN_N = (1, 2, 5, 10, 20, 50, 100)
SHOWN_EPOCHS = 8
NUM_STYLES = 5
FLOORS = {POPULARITY: "floor", ITEMKNN: "floor long"}  # CSS classes
OBJECTIVE = {  # keys that decide what a loss measures
    "model": ("name", "modalities", "rho", "temperature", "mask_share", "last_share"),
    "train": ("loss", "negatives", "num_negatives"),
}


def series_style(number: int) -> str:
    """Return the CSS classes of the `number`-th line. After NUM_STYLES, lines are dashed."""
    return f"series-{number % NUM_STYLES}" + (" dashed" if number >= NUM_STYLES else "")


def recall_panels(metrics: RunMetrics) -> str:
    """Draw recall@N of every channel on the test events, and its ratio to popularity's."""
    lines = [
        _recall_lines(channel_name(channel), series_style(number), metrics, channel)
        for number, channel in enumerate(metrics.curve.recall["test"])
        if channel not in BASELINES
    ]
    return _recall_panels(lines, [metrics], "channel")


def recall_panels_by_run(runs: Mapping[str, RunMetrics]) -> str:
    """Draw the charts of `recall_panels` with one line per run, all channels together."""
    lines = [
        _recall_lines(label, series_style(number), metrics, "all")
        for number, (label, metrics) in enumerate(runs.items())
    ]
    return _recall_panels(lines, list(runs.values()), "run")


def _recall_lines(name: str, style: str, metrics: RunMetrics, channel: str) -> tuple[Line, Line]:
    """Return recall@N and its ratio to the recall@N of popularity."""
    curves, floor = metrics.curve.recall["test"], metrics.curve.recall["test"][POPULARITY]
    points = list(zip(_shown_n(metrics), curves[channel], strict=False))
    ratios = [(n, y / base) for (n, y), base in zip(points, floor, strict=False) if base > 0]
    return Line(name, style, points), Line(name, style, ratios)


def _recall_panels(lines: Sequence[tuple[Line, Line]], runs: Sequence[RunMetrics], by: str) -> str:
    """Return two charts, with the baselines of the runs."""
    floors = [
        _recall_lines(channel_name(name), FLOORS[name], metrics, name)
        for name, metrics in baselines_of(runs).items()
    ]
    charts = []
    for title, chart_lines in zip(
        ("recall@N", "recall@N divided by popularity's"),
        zip(*lines, *floors, strict=True),
        strict=True,
    ):
        svg = line_chart(
            chart_lines,
            "N (log scale)",
            f"{title} by {by}",
            log_x=True,
            x_ticks=[n for n in SHOWN_N if n in _shown_n(runs[0])],
            from_zero=True,
        )
        charts.append((title, svg))
    return html.panels(charts)


def _shown_n(metrics: RunMetrics) -> list[int]:
    return [n for n in metrics.curve.n if n <= metrics.num_items]


class Learning(NamedTuple):
    """The learning curves of a run, and what its loss measures: see `objective`."""

    name: str
    history: Mapping[str, Any]
    objective: str


def objective(config: Mapping[str, Any], label: str) -> str:
    """Return a text that is equal for runs with comparable losses.

    Without a configuration it is the run's own `label`.
    """
    if "model" not in config:
        return label
    keys = {name: [config.get(name, {}).get(key) for key in OBJECTIVE[name]] for name in OBJECTIVE}
    return json.dumps([keys, sorted(config.get("features", {}))])


def learning_panels(history: Mapping[str, Any]) -> str:
    """Draw training loss and validation ndcg@10 by epoch, with the best epoch marked."""
    last, best = _last_epoch([history]), history.get("best_epoch")
    titles = {"loss": "training loss", "ndcg@10": "validation ndcg@10"}
    return html.panels(
        [
            (title, _epoch_chart([_epoch_line(title, 0, history, key)], title, last, best))
            for key, title in titles.items()
        ]
    )


def learning_panels_by_run(runs: Sequence[Learning]) -> str:
    """Draw validation ndcg@10 of all runs, then one panel of losses per objective.

    Losses of different objectives have different scales, so they share no axis.
    """
    last = _last_epoch([run.history for run in runs])
    title = "validation ndcg@10"
    metric = [_epoch_line(run.name, n, run.history, "ndcg@10") for n, run in enumerate(runs)]
    charts = [(title, _epoch_chart(metric, title, last))]
    lines_of: dict[str, list[Line]] = {}
    for number, run in enumerate(runs):
        line = _epoch_line(run.name, number, run.history, "loss")
        if line.points:
            lines_of.setdefault(run.objective, []).append(line)
    for lines in lines_of.values():
        names = ", ".join(line.name for line in lines)
        title = "training loss" if len(lines_of) == 1 else f"training loss of {names}"
        charts.append((title, _epoch_chart(lines, title, last)))
    return html.panels(charts)


def _last_epoch(histories: Sequence[Mapping[str, Any]]) -> int:
    return max((epoch["epoch"] for h in histories for epoch in h.get("epochs", [])), default=0)


def _epoch_line(name: str, number: int, history: Mapping[str, Any], key: str) -> Line:
    epochs = history.get("epochs", [])
    points = [(epoch["epoch"], epoch[key]) for epoch in epochs if key in epoch]
    return Line(name, series_style(number), points)


def _epoch_chart(lines: Sequence[Line], title: str, last: int, marked: int | None = None) -> str:
    ticks = range(0, last + 1, -(-(last + 1) // SHOWN_EPOCHS))
    return line_chart(lines, "epoch", f"{title} by epoch", x_ticks=ticks, marked_x=marked)


def training_note(history: Mapping[str, Any]) -> str:
    """Return how long the training took and which epoch was best, or "" without epochs."""
    epochs: Sequence[Mapping[str, float]] = history.get("epochs", [])
    if not epochs:
        return ""
    text = f"{len(epochs)} epochs in {_precise_duration(sum(e['seconds'] for e in epochs))}"
    if "prefixes_per_second" in epochs[-1]:
        text += f", {epochs[-1]['prefixes_per_second']:,.0f} prefixes/s in the last epoch"
    return (
        f"{text}. The dashed line marks epoch {history['best_epoch']}, the best in validation. "
        "The metrics on this page are of its weights."
    )


def _precise_duration(seconds: float) -> str:
    """Return `4.2 s`, `4 min 30 s` or `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
