"""The parts of a self-contained HTML page: no script, no request. All text is escaped."""

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark;
  --paper: #fcfcfa; --card: #ffffff; --ink: #1b1c1e; --soft: #63666b; --rule: #e4e4df;
  --accent: #2563c9; --tint: #eef4fd; --s1: #12855d; --s2: #b86e00; --s3: #6d4fc4; --s4: #b8406e;
  --floor: #8b8e93; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15171a; --card: #1c1f23; --ink: #e9e9e6; --soft: #a0a4aa; --rule: #30343a;
  --accent: #6ea8ff; --tint: #1d2939; --s1: #41c08f; --s2: #e0a03c; --s3: #a893f0; --s4: #ee86aa;
  --floor: #868a90; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 56px 28px 72px; }
h1 { font-size: 2.1rem; line-height: 1.15; font-weight: 650; letter-spacing: -.02em;
  margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; font-weight: 620; letter-spacing: -.01em; margin: 56px 0 4px; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 10px; }
p { margin: 4px 0 16px; max-width: 72ch; } .lead, .note { color: var(--soft); }
.lead { font-size: 1.05rem; margin-bottom: 28px; } .note { font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 14px; }
.tile, .panel { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 16px 18px; }
.tile .label { font-size: .84rem; color: var(--soft); }
.tile .value { font-size: 1.85rem; line-height: 1.25; font-weight: 620; letter-spacing: -.02em; }
.tile .note { font-size: .8rem; }
.tile.main { background: var(--tint); border-color: transparent; } .tile.main .value {
  color: var(--accent); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 14px; }
.scroll { overflow-x: auto; } .tiles + .scroll, .panels + .scroll { margin-top: 14px; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; }
th, td { padding: 8px 14px 8px 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
th { font-weight: 550; color: var(--soft); font-size: .85rem; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 8px; } th:first-child, td:first-child {
  padding-left: 8px; }
tr.main td { background: var(--tint); font-weight: 620; } tr.floor td { color: var(--soft); }
tr.bounds .number { white-space: pre; color: var(--soft); font-size: .8em; }
tr.bounds .number::first-line { color: var(--ink); font-size: 1.25em; }
tbody tr:last-child td { border-bottom: 0; }
code, pre { font: .87rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td code { overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 18px; overflow-x: auto; margin: 8px 0 0; }
details { margin-top: 56px; } summary { cursor: pointer; font-size: 1.2rem; font-weight: 620; }
details > .scroll { margin-top: 12px; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft);
  font-size: 11.5px; }
.grid { stroke: var(--rule); stroke-width: 1; } .mark { stroke: var(--soft);
  stroke-dasharray: 3 3; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; } .dot {
  stroke: none; }
.series-0.line { stroke: var(--accent); stroke-width: 2.6; } .series-0.dot { fill: var(--accent); }
.series-1.line { stroke: var(--s1); } .series-1.dot { fill: var(--s1); }
.series-2.line { stroke: var(--s2); } .series-2.dot { fill: var(--s2); }
.series-3.line { stroke: var(--s3); } .series-3.dot { fill: var(--s3); }
.series-4.line { stroke: var(--s4); } .series-4.dot { fill: var(--s4); }
.again.line { stroke-dasharray: 2 5; }
.band { stroke: none; fill-opacity: .14; } .series-0.band { fill: var(--accent); }
.thread { fill: none; stroke: var(--floor); stroke-width: 1; stroke-opacity: .45; }
svg .halo { paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.thread.best { stroke: var(--accent); stroke-width: 1.8; stroke-opacity: 1; }
.floor.line { stroke: var(--floor); stroke-dasharray: 5 4; } .floor.dot { fill: var(--floor); }
.dots.line { stroke: none; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0 0 6px;
  padding: 0; font-size: .85rem; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 6px; } .key { width: 22px; height: 8px; }
.case + .case { margin-top: 14px; } .strips { display: grid; gap: 16px 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.strip { min-width: 0; } .strip.wide { grid-column: 1 / -1; }
.strip .label { font-size: .88rem; font-weight: 550; margin-bottom: 5px; }
.strip .label span { font-weight: 400; color: var(--soft); margin-left: 6px; }
.cards { list-style: none; display: flex; gap: 8px; margin: 0; padding: 2px; overflow-x: auto; }
.card { position: relative; flex: 0 1 90px; min-width: 76px; border: 1px solid var(--rule);
  border-radius: 8px; overflow: hidden; background: var(--paper); }
.card img, .card .letter { display: block; width: 100%; aspect-ratio: 1; background: #fff;
  object-fit: contain; } .card .letter { background: var(--rule); }
.card .letter text { font-size: 36px; font-weight: 300; fill: var(--soft); }
.card p { margin: 5px 6px; font-size: .7rem; line-height: 1.35; height: 4.05em;
  overflow-wrap: anywhere; hyphens: auto; display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 3; overflow: hidden; }
.card.target { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
.wide .card:last-child { margin-left: 22px; overflow: visible; } .wide .card:last-child::before {
  content: "\\2192"; position: absolute; left: -25px; top: 28px; color: var(--soft); }
.wide .card:last-child > :first-child { border-radius: 7px 7px 0 0; }
.badge { position: absolute; top: 5px; left: 5px; padding: 0 6px; border-radius: 4px;
  background: var(--accent); color: var(--paper); font-size: .66rem; line-height: 1.6;
  font-weight: 600; }
footer { margin-top: 64px; padding-top: 14px; border-top: 1px solid var(--rule);
  color: var(--soft); font-size: .82rem; overflow-wrap: anywhere; }
@media (max-width: 560px) { main { padding: 32px 16px 48px; } h1 { font-size: 1.6rem; }
  h2, details { margin-top: 40px; } .tiles { grid-template-columns: 1fr 1fr; gap: 10px; }
  .tile { padding: 12px 14px; } .tile .value { font-size: 1.5rem; } .panel { padding: 14px 12px; }
  svg text { font-size: 13px; } table { font-size: .78rem; } th { font-size: .7rem; }
  th, td { padding: 7px 5px 7px 0; } th:first-child, td:first-child { padding-left: 4px; }
  th:last-child, td:last-child { padding-right: 4px; }
  .wide .cards { flex-wrap: wrap; } .cards { gap: 6px; } .card { flex: 0 0 72px;
  min-width: 0; } .card p { margin: 4px 3px; font-size: .62rem; } }
@media print { body { background: none; } .tile, .panel { break-inside: avoid; } }
"""


def page(title: str, body: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        "<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def section(heading: str, body: str, note: str = "") -> str:
    """A heading, a sentence and what it is about; nothing where there is no body."""
    return f"<h2>{escape(heading)}</h2>{paragraph(note, 'note')}{body}" if body else ""


def paragraph(text: str, style: str) -> str:
    return f'<p class="{style}">{escape(text)}</p>' if text else ""


def tile(label: str, value: str, note: str, main: bool = False) -> str:
    return (
        f'<div class="tile{" main" if main else ""}"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def tiles(cells: Sequence[str]) -> str:
    return f'<div class="tiles">{"".join(cells)}</div>'


def panels(charts: Sequence[tuple[str, str]]) -> str:
    """Titled charts side by side; those without a drawing are left out."""
    drawn = [
        f'<div class="panel"><h3>{escape(title)}</h3>{svg}</div>' for title, svg in charts if svg
    ]
    return f'<div class="panels">{"".join(drawn)}</div>' if drawn else ""


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
    words: int = 1,
) -> str:
    """A table of `words` columns of text, then of numbers; `styles` are the rows' classes."""
    kinds = ["" if i < words else ' class="number"' for i in range(len(header))]
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
