"""Nested values as the overrides that a command line holds."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def overrides_of(nested: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`model.dim=64` of {"model": {"dim": 64}} or {"model.dim": 64}; JSON of what is no section is
    TOML too.
    """
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from overrides_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value)}"
