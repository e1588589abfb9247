"""Parallel coordinates: an axis a key, a thread a trial, the best on top."""

import json
import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from tuning.live import in_words
from tuning.report.charts import Axis, axes_of, is_number
from tuning.trials import METRIC, Trial

WIDTH, HEIGHT = 1000, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 80, 24, 44
TEXT = 14  # height of a line
BEST = 0.1  # share of the trials whose threads stand out


def parallel_coordinates(trials: Sequence[Trial]) -> str:
    """SVG; empty of fewer than two trials or no key that varies."""
    told = sorted((t for t in trials if t.best == t.best), key=lambda t: (t.best, -t.number))
    axes = axes_of(told)
    if len(told) < 2 or not axes:
        return ""
    axes.append(Axis(METRIC, [trial.best for trial in told]))
    step = (WIDTH - LEFT - RIGHT) / (len(axes) - 1)
    xs = [LEFT + step * at for at in range(len(axes))]
    heights = [_heights(axis) for axis in axes]
    bold = len(told) - max(1, round(BEST * len(told)))
    body = []
    for at, trial in enumerate(told):
        path = "L".join(f"{x:.1f} {ys[at]:.1f}" for x, ys in zip(xs, heights, strict=True))
        style = "thread best" if at >= bold else "thread"
        title = escape(f"trial {trial.number}: {trial.best:.4f}, {in_words(trial.values)}")
        body.append(f'<path class="{style}" d="M{path}"><title>{title}</title></path>')
    body += [_axis(x, axis, of_axis) for x, axis, of_axis in zip(xs, axes, heights, strict=True)]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="values of every trial and its {METRIC}">{"".join(body)}</svg>'
    )


def _heights(axis: Axis) -> list[float]:
    """Where each value lies on its axis, from the bottom up."""
    if is_number(axis.values):
        place = math.log if axis.is_log else float
        at = [place(value) for value in axis.values]
    else:
        order = sorted({json.dumps(value) for value in axis.values})
        at = [float(order.index(json.dumps(value))) for value in axis.values]
    low, span = min(at), (max(at) - min(at)) or 1.0
    return [HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (each - low) / span for each in at]


def _axis(x: float, axis: Axis, heights: Sequence[float]) -> str:
    """A line, its values (its ends, where they would touch) and its key below."""
    by_height = {round(y): _word(value) for value, y in zip(axis.values, heights, strict=True)}
    places = sorted(by_height)
    if any(below - above < TEXT for above, below in pairwise(places)):
        by_height = {y: by_height[y] for y in (places[0], places[-1])}
    ticks = "".join(
        f'<text class="halo" x="{x - 6:.1f}" y="{y + 3.5:.1f}" text-anchor="end">'
        f"{escape(word)}</text>"
        for y, word in by_height.items()
    )
    return (
        f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>{ticks}'
        f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{escape(axis.key.split('.', 1)[-1])}</text>"
    )


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
