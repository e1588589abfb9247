"""Parallel coordinates: an axis per key, a line per trial, the best trials on top."""

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from tuning.report.charts import Axis, all_numbers, varying_axes
from tuning.trials import METRIC, Trial, format_values

BEST = 0.1  # share of the trials that are highlighted
LENGTH, STEP = 252, 67  # pixels of an axis, and between two axes of a chart on its side


class Layout(NamedTuple):
    """Positions of axes and values: upright axes side by side, or lying ones below each other."""

    width: float
    height: float
    place: Callable[[int, float], tuple[float, float]]  # of an axis and of a value in [0, 1] on it
    is_upright: bool
    apart: float  # least distance of two values with a label


def upright(num_axes: int) -> Layout:
    """Return the layout for a wide screen."""
    step = 850 / (num_axes - 1)
    return Layout(1000, 320, lambda at, p: (70 + step * at, 276 - LENGTH * p), True, 14)


def on_its_side(num_axes: int) -> Layout:
    """Return the layout for a telephone: the first axis on top, larger values to the right."""
    height = STEP * num_axes
    return Layout(320, height, lambda at, p: (34 + LENGTH * p, 32 + STEP * at), False, 56)


def parallel_coordinates(
    trials: Sequence[Trial], layout_of: Callable[[int], Layout] = upright
) -> str:
    """Return an SVG, or "" for fewer than two trials with a score or if no key varies."""
    scored = sorted((t for t in trials if t.has_score), key=lambda t: (t.score, -t.number))
    axes = varying_axes(scored)
    if len(scored) < 2 or not axes:
        return ""
    axes.append(Axis(METRIC, [trial.score for trial in scored]))
    layout, shares = layout_of(len(axes)), [_shares(axis) for axis in axes]
    first_best = len(scored) - max(1, round(BEST * len(scored)))
    body = []
    for number, trial in enumerate(scored):
        points = (layout.place(at, of_axis[number]) for at, of_axis in enumerate(shares))
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        style = "trial-line best" if number >= first_best else "trial-line"
        title = escape(f"trial {trial.number}: {trial.score:.4f}, {format_values(trial.values)}")
        body.append(f'<path class="{style}" d="M{path}"><title>{title}</title></path>')
    body += [
        _axis(layout, at, axis, of_axis)
        for at, (axis, of_axis) in enumerate(zip(axes, shares, strict=True))
    ]
    return (
        f'<svg viewBox="0 0 {layout.width} {layout.height}" role="img" '
        f'aria-label="values of every trial and its {METRIC}">{"".join(body)}</svg>'
    )


def _shares(axis: Axis) -> list[float]:
    """Return the place of each value on its axis: 0 is the lowest, 1 the highest."""
    if all_numbers(axis.values):
        transform = math.log if axis.is_log else float
        positions = [transform(value) for value in axis.values]
    else:
        order = sorted({json.dumps(value) for value in axis.values})
        positions = [float(order.index(json.dumps(value))) for value in axis.values]
    low, span = min(positions), (max(positions) - min(positions)) or 1.0
    return [(position - low) / span for position in positions]


def _axis(layout: Layout, at: int, axis: Axis, shares: Sequence[float]) -> str:
    """Draw the axis, its values and its key.

    If the values would overlap, only the lowest and the highest are drawn.
    """
    text_of = {round(share, 3): _tick(v) for v, share in zip(axis.values, shares, strict=True)}
    places = sorted(text_of)
    if any((b - a) * LENGTH < layout.apart for a, b in pairwise(places)):
        places = [places[0], places[-1]]
    ticks = "".join(_value(layout, *layout.place(at, p), text_of[p]) for p in places)
    (x, y), (end_x, end_y) = layout.place(at, 0), layout.place(at, 1)
    key_x, key_y, anchor = (x, y + 32, "middle") if layout.is_upright else (x - 28, y - 14, "start")
    return (
        f'<path class="grid" d="M{x:.1f} {y:.1f}L{end_x:.1f} {end_y:.1f}"/>{ticks}'
        f'<text class="halo" x="{key_x:.1f}" y="{key_y:.1f}" text-anchor="{anchor}">'
        f"{escape(axis.key.split('.', 1)[-1])}</text>"
    )


def _value(layout: Layout, x: float, y: float, text: str) -> str:
    """Draw a value left of an upright axis, or below a lying one."""
    x, y, anchor = (x - 6, y + 3.5, "end") if layout.is_upright else (x, y + 16, "middle")
    return (
        f'<text class="halo" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _tick(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
