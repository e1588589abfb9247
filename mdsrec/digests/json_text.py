"""JSON files that hold a digest of their own text, as their last key.

A file without one, as former versions wrote them, is read as it is.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mdsrec.errors import InputError

KEY = "digest"
SIGN = "sha256:"  # begins the value; key or value says that there is a digest, so no bit hides it
DIGITS = 16
MARK = f',\n  "{KEY}": "'
REMEDY = "restore it, or delete it and run its stage again"


def with_digest(content: Mapping[str, Any]) -> bytes:
    """Return the text of a JSON file with this content. An empty one has no digest."""
    text = json.dumps({name: content[name] for name in content if name != KEY}, indent=2)
    if text == "{}":
        return b"{}\n"
    body = text.removesuffix("\n}")
    return f'{body}{MARK}{_digest(body)}"\n}}\n'.encode()


def checked_json(uri: str, text: bytes, remedy: str = REMEDY) -> dict[str, Any]:
    """Return the content of a JSON file without its digest. InputError if it is damaged."""
    try:
        content = json.loads(text)
        last = next(reversed(content.items()), ("", ""))
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{uri}: damaged ({error}): {remedy}") from None
    if KEY in content or str(last[1]).startswith(SIGN):
        body, _, _ = text.decode().rpartition(MARK)
        if content.pop(KEY, None) != _digest(body):
            raise InputError(f"{uri}: damaged (its text is not what was written): {remedy}")
    return dict(content)


def _digest(body: str) -> str:
    return SIGN + hashlib.sha256(body.encode()).hexdigest()[:DIGITS]
