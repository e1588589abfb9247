"""The report's charts: recall by length of the list, and what every epoch of training brought."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation import page
from evaluation.plots import Line, line_chart
from evaluation.ranking import POPULARITY

SHOWN_N = (1, 2, 5, 10, 20, 50, 100)
SHOWN_EPOCHS = 8
NUM_STYLES = 5

Metrics = Mapping[str, Any]


def channel_name(channel: str) -> str:
    """A channel in words."""
    names = {"all": "all channels", "fused": "fused", POPULARITY: "popularity"}
    return names.get(channel, f"{channel} alone")


def recall_panels(metrics: Metrics) -> str:
    """recall@N of every channel on the test events, plain and as a multiple of popularity's."""
    curves, floor = metrics["curve"]["test"], metrics["curve"]["test"][POPULARITY]
    within = [n for n in metrics["curve"]["n"] if n <= metrics["num_items"]]
    plain, ratio = [], []
    for number, (channel, values) in enumerate(curves.items()):
        style = "floor" if channel == POPULARITY else f"series-{number % NUM_STYLES}"
        points = list(zip(within, values, strict=False))
        times = [(n, y / base) for (n, y), base in zip(points, floor, strict=False) if base > 0]
        plain.append(Line(channel_name(channel), style, points))
        ratio.append(Line(channel_name(channel), style, times))
    charts = []
    for title, lines in (("recall@N", plain), ("recall@N over popularity's", ratio)):
        svg = line_chart(
            lines,
            "N, logarithmic",
            f"{title} by channel",
            log_x=True,
            x_ticks=[n for n in SHOWN_N if n in within],
            from_zero=True,
        )
        charts.append((title, svg))
    return page.panels(charts)


def learning_panels(history: Mapping[str, Any]) -> str:
    """Training loss and validation ndcg@10 by epoch, the kept epoch marked."""
    epochs = history.get("epochs", [])
    step = -(-len(epochs) // SHOWN_EPOCHS) or 1
    charts = []
    for key, title in (("loss", "training loss"), ("ndcg@10", "validation ndcg@10")):
        points = [(epoch["epoch"], epoch[key]) for epoch in epochs if key in epoch]
        svg = line_chart(
            [Line(title, "series-0", points)],
            "epoch",
            f"{title} by epoch",
            x_ticks=[epoch["epoch"] for epoch in epochs[::step]],
            marked_x=history.get("best_epoch"),
        )
        charts.append((title, svg))
    return page.panels(charts)


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
