"""The parts of a self-contained HTML page, without scripts or requests. All text is escaped."""

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources

TELEPHONE, DESKTOP = 51, 110  # characters that fit: one between columns, and their widest words
HALF = 20  # characters of a cell and its header in half a line of a telephone
PHRASE = 14  # characters of a text that stay on one line


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
    """Return a heading, a note and the body, or "" if the body is empty.

    The section's id is the heading in lower case with hyphens.
    """
    if not body:
        return ""
    name = "-".join(re.findall(r"\w+", heading.lower()))
    note = paragraph(note, "note")
    return f'<section id="{name}"><h2>{escape(heading)}</h2>{note}{body}</section>'


def paragraph(text: str, style: str) -> str:
    return f'<p class="{style}">{escape(text)}</p>' if text else ""


def definitions(terms: Sequence[tuple[str, str]], style: str) -> str:
    """Return a list of terms, each with its text."""
    rows = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms)
    return f'<dl class="{style}">{rows}</dl>' if rows else ""


def tile(label: str, value: str, note: str, main: bool = False) -> str:
    """Return a box with one figure. `main` sets it off in color."""
    return (
        f'<div class="tile{" main" if main else ""}"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def tiles(cells: Sequence[str]) -> str:
    return f'<div class="tiles">{"".join(cells)}</div>'


def panels(charts: Sequence[tuple[str, str]], columns: int = 2) -> str:
    """Place charts, given as (title, SVG), in one column or two. Empty charts are left out."""
    boxes = [
        f'<div class="panel"><h3>{escape(title)}</h3>{svg}</div>' for title, svg in charts if svg
    ]
    style = "panels" if columns == 2 else "panels single"
    return f'<div class="{style}">{"".join(boxes)}</div>' if boxes else ""


def sentences(texts: Sequence[str]) -> str:
    """Return a list of sentences, or "" without any."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="words">{items}</ul>' if items else ""


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
    num_left: int = 1,
) -> str:
    """Return a table. The first `num_left` columns hold text, the others numbers.

    `styles` are the CSS classes of the rows. If the table is too wide for a telephone, its rows
    become lists of cells with their headers there. If it is too wide for a desktop, its words are
    broken.
    """
    labels = "".join(_cell("th", text, i < num_left) for i, text in enumerate(header))
    body = "".join(
        f'<tr class="{styles[at] if styles else ""}">'
        + "".join(_cell("td", c, i < num_left, header[i]) for i, c in enumerate(row))
        + "</tr>"
        for at, row in enumerate(rows)
    )
    lines = [header, *rows]
    width = sum(
        1 + max(_least_width(line[i], line is header, i < num_left) for line in lines)
        for i in range(len(header))
    )
    style = "crowded stacked" if width > DESKTOP else "stacked" if width > TELEPHONE else "narrow"
    return f'<table class="{style}"><thead><tr>{labels}</tr></thead><tbody>{body}</tbody></table>'


def _cell(tag: str, text: str, is_left: bool, label: str = "") -> str:
    classes = "" if is_left else "number"
    if "\n" not in text and len(text) + len(label) > HALF:
        classes += " long"
    names = f' class="{classes.strip()}"' if classes else ""
    data = f' data-label="{escape(label)}"' if label else ""
    return f"<{tag}{names}{data}>{escape(text)}</{tag}>"


def _least_width(text: str, is_header: bool, is_left: bool) -> int:
    """Return how many characters a cell needs: a number all, a header its longest word.

    Text needs its longest word, and as much of a phrase as keeps it from getting very high.
    """
    word = max(map(len, re.split(r"\s|(?<=-)", text)))
    if is_header:
        return word
    return max(word, min(len(text), PHRASE)) if is_left else max(map(len, text.split("\n")))


def collapsed(heading: str, body: str) -> str:
    return f"<details><summary>{escape(heading)}</summary>{body}</details>"


def commands(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def footer(text: str) -> str:
    return f"<footer>{escape(text)}</footer>"
