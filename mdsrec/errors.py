"""Errors that the user can correct. Any other exception is a bug and keeps its traceback."""

import difflib
from pathlib import Path

LONGEST_CAUSE = 300  # characters


class InputError(ValueError):
    """A configuration, file or table that cannot be used.

    The message is one line: which key or file, what was found, what to do. Every command prints it
    without a traceback and ends with exit code 2.
    """


def cause_of(text: str) -> str:
    """Return the last line of a traceback or log, as `Error: message`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "it ended without a message"
    return last.removeprefix("mdsrec.errors.InputError: ")[:LONGEST_CAUSE]


def near_file(path: str) -> str:
    """Return `; did you mean orders.csv?` if a local file of such a name is there, else nothing."""
    try:
        names = [file.name for file in Path(path).parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(Path(path).name, names, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""
