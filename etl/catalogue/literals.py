"""Values written as text, in JSON or as Python literals."""

import ast
import json
import warnings
from typing import Any


def load_literal(text: str) -> Any:
    """Evaluate a Python literal. Invalid escapes in its strings, as `\\d`, stay as they are.

    Raises ValueError for anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("not a Python literal") from None


def load_json(text: str) -> Any:
    """Parse JSON. Raises ValueError, also for values that are nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


def unquoted(value: Any) -> Any:
    """Return the mapping or list that a text holds, None if it is cut off; else the value itself.

    Exports to tables hold mappings and lists as JSON or as Python literals.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    for load in (load_json, load_literal):
        try:
            return load(value)
        except ValueError:
            continue
    return None
