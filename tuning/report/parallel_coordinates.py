"""Parallel coordinates: an axis per key, a line per trial, the best trials on top."""

import json
import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from tuning.report.charts import Axis, all_numbers, varying_axes
from tuning.trials import METRIC, Trial, format_values

WIDTH, HEIGHT = 1000, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 80, 24, 44
LINE_HEIGHT = 14  # of a text
BEST = 0.1  # share of the trials that are highlighted


def parallel_coordinates(trials: Sequence[Trial]) -> str:
    """Return an SVG, or "" for fewer than two trials with a score or if no key varies."""
    scored = sorted((t for t in trials if t.has_score), key=lambda t: (t.score, -t.number))
    axes = varying_axes(scored)
    if len(scored) < 2 or not axes:
        return ""
    axes.append(Axis(METRIC, [trial.score for trial in scored]))
    step = (WIDTH - LEFT - RIGHT) / (len(axes) - 1)
    xs = [LEFT + step * at for at in range(len(axes))]
    heights = [_heights(axis) for axis in axes]
    first_best = len(scored) - max(1, round(BEST * len(scored)))
    body = []
    for at, trial in enumerate(scored):
        path = "L".join(f"{x:.1f} {ys[at]:.1f}" for x, ys in zip(xs, heights, strict=True))
        style = "trial-line best" if at >= first_best else "trial-line"
        title = escape(f"trial {trial.number}: {trial.score:.4f}, {format_values(trial.values)}")
        body.append(f'<path class="{style}" d="M{path}"><title>{title}</title></path>')
    body += [_axis(x, axis, ys) for x, axis, ys in zip(xs, axes, heights, strict=True)]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="values of every trial and its {METRIC}">{"".join(body)}</svg>'
    )


def _heights(axis: Axis) -> list[float]:
    """Return the y coordinate of each value. Larger values are further up."""
    if all_numbers(axis.values):
        transform = math.log if axis.is_log else float
        positions = [transform(value) for value in axis.values]
    else:
        order = sorted({json.dumps(value) for value in axis.values})
        positions = [float(order.index(json.dumps(value))) for value in axis.values]
    low, span = min(positions), (max(positions) - min(positions)) or 1.0
    return [HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (p - low) / span for p in positions]


def _axis(x: float, axis: Axis, heights: Sequence[float]) -> str:
    """Draw the axis, its values and its key below.

    If the values would overlap, only the lowest and the highest are drawn.
    """
    by_height = {round(y): _tick(value) for value, y in zip(axis.values, heights, strict=True)}
    ys = sorted(by_height)
    if any(below - above < LINE_HEIGHT for above, below in pairwise(ys)):
        by_height = {y: by_height[y] for y in (ys[0], ys[-1])}
    ticks = "".join(
        f'<text class="halo" x="{x - 6:.1f}" y="{y + 3.5:.1f}" text-anchor="end">'
        f"{escape(text)}</text>"
        for y, text in by_height.items()
    )
    return (
        f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>{ticks}'
        f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{escape(axis.key.split('.', 1)[-1])}</text>"
    )


def _tick(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
