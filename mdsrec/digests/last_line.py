"""TOML files that hold a digest of their own text, in a comment at their end."""

import zlib

from mdsrec.errors import InputError

MARK = "# digest of the text above; delete this line to edit the file: "


def with_last_line(text: str) -> str:
    """Return the text of a file with the digest behind it."""
    return f"{text}{MARK}{_digest(text)}\n"


def check_last_line(text: str) -> None:
    """Raise InputError if a text ends with a digest that is not its own."""
    above, mark, digest = text.rpartition(MARK)
    if mark and digest.strip() != _digest(above):
        raise InputError("damaged or edited: correct it, then delete its last line, the digest")


def _digest(text: str) -> str:
    return f"crc32 {zlib.crc32(text.encode()):08x}"
