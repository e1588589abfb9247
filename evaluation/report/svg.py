"""Charts as inline SVG. Colors come from the page's style sheet (series-0, series-1, ...)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 40
ROW = 46  # height of an interval

Point = tuple[float, float]
Scale = Callable[[float], float]  # from a value to a coordinate


@dataclass(frozen=True)
class Line:
    name: str
    style: str  # CSS class
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()  # x, low, high


@dataclass(frozen=True)
class Interval:
    name: str
    style: str
    mean: float
    low: float
    high: float


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    label: str,
    log_x: bool = False,
    x_ticks: Sequence[float] = (),
    from_zero: bool = False,
    marked_x: float | None = None,
) -> str:
    """Return a chart, with a legend if there are several lines, or "" without points.

    `label` describes the chart to screen readers. `marked_x` adds a vertical dashed line.
    """
    points = [p for line in lines for p in line.points if math.isfinite(p[1])]
    points += [(x, y) for line in lines for x, *ends in line.band for y in ends]
    if not points:
        return ""
    xs = [x for x, _ in points]
    y_ticks = _ticks(0 if from_zero else min(y for _, y in points), max(y for _, y in points))
    to_x = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT, log_x)
    to_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP, False)
    ticks = x_ticks or (_log_ticks if log_x else _ticks)(min(xs), max(xs))
    shown_x = [x for x in ticks if min(xs) <= x <= max(xs)]
    body = [_y_tick(tick, to_y(tick)) for tick in y_ticks]
    body += [_x_tick(tick, to_x(tick)) for tick in shown_x]
    body.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
    )
    if marked_x is not None:
        x = to_x(marked_x)
        body.append(f'<path class="mark" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    body += [_line(line, to_x, to_y) for line in lines]
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )
    return (legend(lines) if len(lines) > 1 else "") + svg


def interval_chart(intervals: Sequence[Interval], label: str) -> str:
    """Return a chart with one named row per interval and a mark at 0, or "" without intervals."""
    if not intervals:
        return ""
    ends = [end for interval in intervals for end in (0.0, interval.low, interval.high)]
    ticks = _ticks(min(ends), max(ends))
    to_x = _scale(ticks[0], ticks[-1], LEFT / 2, WIDTH - LEFT / 2, False)
    bottom = ROW * len(intervals) + TOP
    body = [
        f'<path class="{"mark" if tick == 0 else "grid"}" d="M{to_x(tick):.1f} 0V{bottom}"/>'
        f'<text class="tick" x="{to_x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">'
        f"{f'{tick:+g}' if tick else '0'}</text>"
        for tick in ticks
    ]
    body += [
        _interval_row(interval, to_x, ROW * (number + 1))
        for number, interval in enumerate(intervals)
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {bottom + 24}" role="img" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )


def _interval_row(interval: Interval, to_x: Scale, y: float) -> str:
    low, mean, high = (to_x(value) for value in (interval.low, interval.mean, interval.high))
    return (
        f'<text class="halo" x="2" y="{y - 14}">{escape(interval.name)}</text>'
        f'<path class="line {interval.style}" d="M{low:.1f} {y}H{high:.1f}"/>'
        f'<circle class="dot {interval.style}" cx="{mean:.1f}" cy="{y}" r="4.5">'
        f"<title>{escape(interval.name)}: {interval.mean:+.4g}</title></circle>"
    )


def legend(lines: Sequence[Line]) -> str:
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 22 8" aria-hidden="true">'
        f'<path class="line {line.style}" d="M1 4H21"/>'
        f'<circle class="dot {line.style}" cx="11" cy="4" r="2.6"/></svg>{escape(line.name)}</li>'
        for line in lines
    )
    return f'<ul class="legend">{keys}</ul>'


def _line(line: Line, to_x: Scale, to_y: Scale) -> str:
    """Draw the band, the line over it, and a dot with a tooltip at each point."""
    points = [(x, y, to_x(x), to_y(y)) for x, y in line.points if math.isfinite(y)]
    path = "L".join(f"{px:.1f} {py:.1f}" for _, _, px, py in points)
    radius = 2.6 if len(points) < 40 else 1.4
    dots = "".join(
        f'<circle class="dot {line.style}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}">'
        f"<title>{escape(line.name)}, {x:g}: {y:.4g}</title></circle>"
        for x, y, px, py in points
    )
    band = _band(line, to_x, to_y)
    return f'{band}<path class="line {line.style}" d="M{path}"/>{dots}' if points else band


def _band(line: Line, to_x: Scale, to_y: Scale) -> str:
    upper = [f"{to_x(x):.1f} {to_y(high):.1f}" for x, _, high in line.band]
    lower = [f"{to_x(x):.1f} {to_y(low):.1f}" for x, low, _ in reversed(line.band)]
    return f'<path class="band {line.style}" d="M{"L".join(upper + lower)}Z"/>' if upper else ""


def _y_tick(value: float, y: float) -> str:
    return (
        f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{value:g}</text>'
    )


def _x_tick(value: float, x: float) -> str:
    y = HEIGHT - BOTTOM
    return f'<text class="tick" x="{x:.1f}" y="{y + 16}" text-anchor="middle">{value:g}</text>'


def _scale(low: float, high: float, start: float, end: float, log: bool) -> Scale:
    """Return a function from [low, high] onto [start, end]. If low = high it returns the middle."""
    transform: Scale = math.log if log else float
    first, span = transform(low), transform(high) - transform(low)
    if not span:
        return lambda _: (start + end) / 2
    return lambda value: start + (end - start) * (transform(value) - first) / span


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round values that span [low, high]."""
    span = (high - low) or abs(high) or 1.0
    rough = span / 4
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten in [low, high].

    Over more than two decades only the powers of ten are returned.
    """
    factors = (1,) if high > 100 * low else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in values if low <= value <= high]
