"""Errors that the user can correct. Any other exception is a bug and keeps its traceback."""

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
