"""What the user can mend. Everything else is our own mistake and keeps its traceback."""

LONGEST = 300  # characters of a failure's cause


class InputError(ValueError):
    """A configuration, file or table that cannot be used: one line that says which, what was found,
    what to do.

    Every command prints it without a traceback and ends with exit code 2.
    """


def last_words(text: str) -> str:
    """The last line of a traceback, or of what a log says of a failure: `Error: what is wrong`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = lines[-1] if lines else "it ended without a word"
    return said.removeprefix("mdsrec.errors.InputError: ")[:LONGEST]
