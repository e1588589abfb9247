"""The report's charts: recall by list length, and loss and validation metric by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.metrics.run_metrics import POPULARITY, RunMetrics
from evaluation.report import html
from evaluation.report.svg import Line, line_chart

SHOWN_N = (1, 2, 5, 10, 20, 50, 100)
SHOWN_EPOCHS = 8
NUM_STYLES = 5


def channel_name(channel: str) -> str:
    """Return the channel's name as pages show it."""
    names = {"all": "all channels", "fused": "fused", POPULARITY: "popularity"}
    return names.get(channel, f"{channel} only")


def series_style(number: int) -> str:
    """Return the CSS classes of the `number`-th line. After NUM_STYLES, lines are dashed."""
    return f"series-{number % NUM_STYLES}" + (" dashed" if number >= NUM_STYLES else "")


def recall_panels(metrics: RunMetrics) -> str:
    """Draw recall@N of every channel on the test events, and its ratio to popularity's."""
    lines = [
        _recall_lines(channel_name(channel), series_style(number), metrics, channel)
        for number, channel in enumerate(metrics.curve.recall["test"])
        if channel != POPULARITY
    ]
    return _recall_panels(lines, metrics, "channel")


def recall_panels_by_run(runs: Mapping[str, RunMetrics]) -> str:
    """Draw the charts of `recall_panels` with one line per run, all channels together."""
    lines = [
        _recall_lines(label, series_style(number), metrics, "all")
        for number, (label, metrics) in enumerate(runs.items())
    ]
    return _recall_panels(lines, next(iter(runs.values())), "run")


def _recall_lines(name: str, style: str, metrics: RunMetrics, channel: str) -> tuple[Line, Line]:
    """Return recall@N and its ratio to the recall@N of popularity."""
    curves, floor = metrics.curve.recall["test"], metrics.curve.recall["test"][POPULARITY]
    points = list(zip(_shown_n(metrics), curves[channel], strict=False))
    ratios = [(n, y / base) for (n, y), base in zip(points, floor, strict=False) if base > 0]
    return Line(name, style, points), Line(name, style, ratios)


def _recall_panels(lines: Sequence[tuple[Line, Line]], metrics: RunMetrics, by: str) -> str:
    """Return two charts. `metrics` gives the popularity baseline."""
    floor = _recall_lines(channel_name(POPULARITY), "floor", metrics, POPULARITY)
    charts = []
    for title, chart_lines in zip(
        ("recall@N", "recall@N divided by popularity's"),
        zip(*lines, floor, strict=True),
        strict=True,
    ):
        svg = line_chart(
            chart_lines,
            "N (log scale)",
            f"{title} by {by}",
            log_x=True,
            x_ticks=[n for n in SHOWN_N if n in _shown_n(metrics)],
            from_zero=True,
        )
        charts.append((title, svg))
    return html.panels(charts)


def _shown_n(metrics: RunMetrics) -> list[int]:
    return [n for n in metrics.curve.n if n <= metrics.num_items]


def learning_panels(history: Mapping[str, Any]) -> str:
    """Draw training loss and validation ndcg@10 by epoch, with the best epoch marked."""
    return _learning_panels({"": history}, history.get("best_epoch"))


def learning_panels_by_run(histories: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw training loss and validation ndcg@10 by epoch, one line per run."""
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
                series_style(number),
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
