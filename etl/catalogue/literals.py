"""Values written as text, in JSON or as Python literals."""

import ast
import json
import re
import warnings
from typing import Any

DEEPEST = 200  # brackets within brackets; each level is a call of a parser, of which C has few
LONGEST_LITERAL = 1 << 20  # characters; Python's parser takes 400 times as much memory
TOO_DEEP = "nested too deeply"
STRINGS = re.compile(r"""\"(?:[^"\\]|\\.)*+\"|'(?:[^'\\]|\\.)*+'""", re.DOTALL)
BRACKETS = re.compile(r"[\[\](){}]")


def load_literal(text: str) -> Any:
    """Evaluate a Python literal. Invalid escapes in its strings, as `\\d`, stay as they are.

    Raises ValueError for anything else.
    """
    if len(text) > LONGEST_LITERAL:
        raise ValueError(f"longer than {LONGEST_LITERAL:,} characters, too long for a literal")
    check_depth(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("not a Python literal") from None


def load_json(text: str) -> Any:
    """Parse JSON. Raises ValueError, also for values that are nested too deeply."""
    check_depth(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


def check_depth(text: str) -> None:
    """Raise ValueError if brackets are nested deeper than DEEPEST; those in strings do not count.

    Parsers differ, by version of Python too, in the depth at which they fail, and in how.
    """
    if text.count("[") + text.count("{") + text.count("(") <= DEEPEST:  # nearly every line
        return
    depth = 0
    for bracket in BRACKETS.findall(STRINGS.sub("", text)):
        depth += 1 if bracket in "[{(" else -1
        if depth > DEEPEST:
            raise ValueError(TOO_DEEP)


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
