"""Reasons why a table is built: how its recipe differs from that of the stored table."""

from collections.abc import Iterator, Mapping
from typing import Any

from mdsrec import tables
from mdsrec.errors import InputError
from mdsrec.tables import Manifest, OtherVersionError, Recipe, fingerprint

NEW, DAMAGED = "new", "damaged"
RAW_INPUTS = {"reviews", "metadata", "vectors", "encoder", "images"}
MAX_VALUE_LENGTH = 40  # characters of a setting's value; longer values are not shown


def reason_to_build(uri: str, recipe: Recipe) -> str:
    """Return in few words why the table at `uri` is not up to date."""
    try:
        manifest = tables.stored_manifest(uri)
    except OtherVersionError:
        return "of an earlier version of this program"
    except InputError:
        return DAMAGED
    if manifest is None:
        return NEW
    return "; ".join(recipe_changes(manifest, recipe) + kept_version(uri, recipe)) or DAMAGED


def kept_version(uri: str, recipe: Recipe) -> list[str]:
    """Return whether the table is found again instead of built, as a list of a text or none."""
    is_kept = recipe.fingerprint in tables.former_fingerprints(uri)
    return ["a former version of this recipe is kept"] if is_kept else []


def recipe_changes(manifest: Manifest, recipe: Recipe) -> list[str]:
    """Return the differences between the recipe of a built table and its present recipe.

    A setting is listed with both values if they are short, an input only by name.
    """
    changes = [
        _setting_change(key, was, now)
        for key, was, now in _changed(manifest.settings, recipe.settings)
    ]
    return changes + [_input_change(*change) for change in _changed(manifest.inputs, recipe.inputs)]


def _setting_change(key: str, before: Any, now: Any) -> str:
    was, is_now = str(before), str(now)
    short = max(len(was), len(is_now)) <= MAX_VALUE_LENGTH
    return f"{key} changed from {was} to {is_now}" if short else f"{key} changed"


def _input_change(name: str, before: str | None, now: str | None) -> str:
    """Return how a raw file, as `reviews.1`, or another table is not what it was."""
    if before is None or now is None:
        return f"{name} {'added' if before is None else 'removed'}"
    is_raw = name.partition(".")[0] in RAW_INPUTS
    return f"{name} changed" if is_raw else f"made from {name}, which changed"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each key whose value differs, with both values."""
    for key in dict.fromkeys([*before, *now]):
        if fingerprint(before.get(key)) != fingerprint(now.get(key)):
            yield key, before.get(key), now.get(key)
