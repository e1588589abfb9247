"""The report's sections on the data (from the manifests of the tables) and the configuration."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.report import html
from mdsrec.tables import Manifest

Manifests = Mapping[str, Manifest]  # by table name; only tables that exist


def data_section(manifests: Manifests) -> str:
    """Return tiles of the main counts and a table of all counters, or "" without tables."""
    return html.tiles(_tiles(manifests)) + _table(manifests) if manifests else ""


def configuration_table(config: Mapping[str, Any]) -> str:
    rows = [
        [key, value if isinstance(value, str) else json.dumps(value)]
        for key, value in dotted_items(config)
    ]
    return html.table(["key", "value"], rows, num_left=2)


def dotted_items(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (`model.dim`, 64), ... from nested sections. An empty section is a value: {}."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from dotted_items(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _tiles(manifests: Manifests) -> list[str]:
    cells = []
    if "sequences" in manifests:
        counters = manifests["sequences"].counters
        cells.append(html.tile("users", f"{manifests['sequences'].rows:,}", ""))
        if "interactions" in counters:
            note = f"{counters['repeats_dropped']:,} repeats dropped"
            cells.append(html.tile("interactions", f"{counters['interactions']:,}", note))
    for name, manifest in manifests.items():
        kind, _, modality = name.partition("/")
        if kind == "items":
            cells.append(html.tile("items", f"{manifest.rows:,}", ""))
        if kind == "features":
            missing = manifests["items"].rows - manifest.rows if "items" in manifests else 0
            note = f"{missing:,} without" if missing else "every item"
            cells.append(html.tile(f"items with {modality}", f"{manifest.rows:,}", note))
    if "rejects" in manifests:
        cells.append(
            html.tile("rejected lines", f"{manifests['rejects'].rows:,}", "stored with the reason")
        )
    return cells


def _table(manifests: Manifests) -> str:
    rows = [
        [name, ", ".join(_counters_text(manifest)) or "-", f"{manifest.rows:,}"]
        for name, manifest in manifests.items()
    ]
    return html.table(["table", "counters", "rows"], rows, num_left=2)


def _plain(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _counters_text(manifest: Manifest) -> list[str]:
    """Return the counters as text, without those that equal the number of rows."""
    return [
        f"{key.replace('_', ' ').replace('.', ' ')} "
        + (f"{value:,}" if isinstance(value, int) else _plain(value))
        for key, value in dotted_items(manifest.counters)
        if value != manifest.rows
    ]
