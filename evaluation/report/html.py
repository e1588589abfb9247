"""The parts of a self-contained HTML page, without scripts or requests. All text is escaped."""

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources


def page(title: str, body: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{_style_sheet()}</style></head>\n"
        "<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


@cache
def _style_sheet() -> str:
    return resources.files("evaluation.report").joinpath("style.css").read_text("utf-8")


def section(heading: str, body: str, note: str = "") -> str:
    """Return a heading, a note and the body, or "" if the body is empty."""
    return f"<h2>{escape(heading)}</h2>{paragraph(note, 'note')}{body}" if body else ""


def paragraph(text: str, style: str) -> str:
    return f'<p class="{style}">{escape(text)}</p>' if text else ""


def tile(label: str, value: str, note: str, main: bool = False) -> str:
    """Return a box with one figure. `main` sets it off in color."""
    return (
        f'<div class="tile{" main" if main else ""}"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def tiles(cells: Sequence[str]) -> str:
    return f'<div class="tiles">{"".join(cells)}</div>'


def panels(charts: Sequence[tuple[str, str]]) -> str:
    """Place charts, given as (title, SVG), next to each other. Empty charts are left out."""
    boxes = [
        f'<div class="panel"><h3>{escape(title)}</h3>{svg}</div>' for title, svg in charts if svg
    ]
    return f'<div class="panels">{"".join(boxes)}</div>' if boxes else ""


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
    num_left: int = 1,
) -> str:
    """Return a table. The first `num_left` columns hold text, the others numbers.

    `styles` are the CSS classes of the rows.
    """
    kinds = ["" if i < num_left else ' class="number"' for i in range(len(header))]
    head = "".join(f"<th{k}>{escape(h)}</th>" for h, k in zip(header, kinds, strict=True))
    body = "".join(
        f'<tr class="{styles[i] if styles else ""}">'
        + "".join(f"<td{k}>{escape(cell)}</td>" for cell, k in zip(row, kinds, strict=True))
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def collapsed(heading: str, body: str) -> str:
    return f"<details><summary>{escape(heading)}</summary>{body}</details>"


def commands(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def footer(text: str) -> str:
    return f"<footer>{escape(text)}</footer>"
