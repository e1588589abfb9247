"""The report's account of the data, from the tables' manifests, and of the configuration."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.report import html
from mdsrec.tables import Manifest

Manifests = Mapping[str, Manifest]  # by table name; only those that stand


def data_section(manifests: Manifests) -> str:
    """Tiles of the main counts over a table of all counters; nothing without tables."""
    return html.tiles(_tiles(manifests)) + _table(manifests) if manifests else ""


def configuration_table(config: Mapping[str, Any]) -> str:
    rows = [
        [key, value if isinstance(value, str) else json.dumps(value)]
        for key, value in flattened(config)
    ]
    return html.table(["key", "value"], rows, words=2)


def flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, as overrides name them."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
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
            html.tile("rejected lines", f"{manifests['rejects'].rows:,}", "kept with their reason")
        )
    return cells


def _table(manifests: Manifests) -> str:
    rows = [
        [name, ", ".join(_counted(manifest)) or "-", f"{manifest.rows:,}"]
        for name, manifest in manifests.items()
    ]
    return html.table(["table", "counters", "rows"], rows, words=2)


def _counted(manifest: Manifest) -> list[str]:
    """Counters in words, without those that repeat the number of rows."""
    return [
        f"{key.replace('_', ' ').replace('.', ' ')} "
        + (f"{value:,}" if isinstance(value, int) else str(value))
        for key, value in flattened(manifest.counters)
        if value != manifest.rows
    ]
