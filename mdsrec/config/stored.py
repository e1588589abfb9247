"""Credentials in a configuration, which would be written to config.json, a report or a tracker."""

from collections.abc import Iterator, Mapping
from typing import Any

from mdsrec.credentials import (
    SECRET_PARTS,
    SECRET_PROPERTIES,
    holds_credentials,
    is_secret_name,
)
from mdsrec.errors import REFUSAL

Location = tuple[str | int, ...]


def find_credentials(resolved: Mapping[str, Any]) -> tuple[Location, str] | None:
    """Return the keys of the first value, or key, that holds credentials, and what to do."""
    for location, value in _values(resolved):
        keys = ".".join(map(str, location))
        for section, name in SECRET_PROPERTIES:
            if f"{section}.{name}" in keys:
                home = f"[{section}.{name}]"
                return location, f"it would be stored: set it in {home}, which never is"
        if isinstance(value, str) and value:
            named = str(location[-1])
            if holds_credentials(value):
                return location, f"the {'URI' if '://' in value else 'text'} {REFUSAL}"
            if SECRET_PARTS.search(named) and "token" not in named and is_secret_name(named):
                return location, f"the text {REFUSAL}"
        if any(holds_credentials(key) for key in location if isinstance(key, str)):
            return location, f"the key {REFUSAL}"
    return None


def _values(content: Any, location: Location = ()) -> Iterator[tuple[Location, Any]]:
    """Yield every value of nested sections and lists with its keys."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _values(value, (*location, str(key)))
    elif isinstance(content, list | tuple):
        for position, value in enumerate(content):
            yield from _values(value, (*location, position))
    else:
        yield location, content
