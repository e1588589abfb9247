"""The report's charts: recall by length of the list, and what every epoch of training brought."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.metrics.run_metrics import RunMetrics
from evaluation.ranking import POPULARITY
from evaluation.report import html
from evaluation.report.svg import Line, line_chart

SHOWN_N = (1, 2, 5, 10, 20, 50, 100)
SHOWN_EPOCHS = 8
NUM_STYLES = 5


def channel_name(channel: str) -> str:
    """A channel in words."""
    names = {"all": "all channels", "fused": "fused", POPULARITY: "popularity"}
    return names.get(channel, f"{channel} alone")


def series(number: int) -> str:
    """The style of a page's line; the second round of colours is dashed."""
    return f"series-{number % NUM_STYLES}" + (" again" if number >= NUM_STYLES else "")


def recall_panels(metrics: RunMetrics) -> str:
    """recall@N of every channel on the test events, plain and as a multiple of popularity's."""
    lines = [
        _recall(channel_name(channel), series(number), metrics, channel)
        for number, channel in enumerate(metrics.curve.recall["test"])
        if channel != POPULARITY
    ]
    return _recall_panels(lines, metrics, "channel")


def recall_panels_of_runs(runs: Mapping[str, RunMetrics]) -> str:
    """recall@N of the whole score of each run, as `recall_panels`."""
    lines = [
        _recall(label, series(number), metrics, "all")
        for number, (label, metrics) in enumerate(runs.items())
    ]
    return _recall_panels(lines, next(iter(runs.values())), "run")


def _recall(name: str, style: str, metrics: RunMetrics, channel: str) -> tuple[Line, Line]:
    curves, floor = metrics.curve.recall["test"], metrics.curve.recall["test"][POPULARITY]
    points = list(zip(_shown(metrics), curves[channel], strict=False))
    times = [(n, y / base) for (n, y), base in zip(points, floor, strict=False) if base > 0]
    return Line(name, style, points), Line(name, style, times)


def _recall_panels(lines: Sequence[tuple[Line, Line]], metrics: RunMetrics, by: str) -> str:
    """Two charts with popularity as the floor, which `metrics` holds."""
    floor = _recall(channel_name(POPULARITY), "floor", metrics, POPULARITY)
    charts = []
    for title, of_title in zip(
        ("recall@N", "recall@N over popularity's"), zip(*lines, floor, strict=True), strict=True
    ):
        svg = line_chart(
            of_title,
            "N, logarithmic",
            f"{title} by {by}",
            log_x=True,
            x_ticks=[n for n in SHOWN_N if n in _shown(metrics)],
            from_zero=True,
        )
        charts.append((title, svg))
    return html.panels(charts)


def _shown(metrics: RunMetrics) -> list[int]:
    return [n for n in metrics.curve.n if n <= metrics.num_items]


def learning_panels(history: Mapping[str, Any]) -> str:
    """Training loss and validation ndcg@10 by epoch, the kept epoch marked."""
    return _learning_panels({"": history}, history.get("best_epoch"))


def learning_panels_of_runs(histories: Mapping[str, Mapping[str, Any]]) -> str:
    """Training loss and validation ndcg@10 of each run by epoch."""
    return _learning_panels(histories, None)


def _learning_panels(histories: Mapping[str, Mapping[str, Any]], marked: int | None) -> str:
    epochs_of = {name: history.get("epochs", []) for name, history in histories.items()}
    last = max((epoch["epoch"] for epochs in epochs_of.values() for epoch in epochs), default=0)
    step = -(-(last + 1) // SHOWN_EPOCHS)
    charts = []
    for key, title in (("loss", "training loss"), ("ndcg@10", "validation ndcg@10")):
        lines = [
            Line(
                name or title,
                series(number),
                [(epoch["epoch"], epoch[key]) for epoch in epochs if key in epoch],
            )
            for number, (name, epochs) in enumerate(epochs_of.items())
        ]
        svg = line_chart(
            lines,
            "epoch",
            f"{title} by epoch",
            x_ticks=range(0, last + 1, step),
            marked_x=marked,
        )
        charts.append((title, svg))
    return html.panels(charts)


def training_note(history: Mapping[str, Any]) -> str:
    """How long the training was, in a sentence or two; nothing without epochs."""
    epochs: Sequence[Mapping[str, float]] = history.get("epochs", [])
    if not epochs:
        return ""
    said = f"{len(epochs)} epochs in {_duration(sum(epoch['seconds'] for epoch in epochs))}"
    if "prefixes_per_second" in epochs[-1]:
        said += f", {epochs[-1]['prefixes_per_second']:,.0f} prefixes/s in the last"
    return f"{said}. The dashed line is epoch {history['best_epoch']}, whose weights were kept."


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
