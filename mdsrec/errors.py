"""Errors that the user can correct. Any other exception is a bug and keeps its traceback."""

import difflib
from pathlib import Path

from mdsrec.credentials import redacted, uri_holds_credentials

LONGEST_CAUSE = 300  # characters
REFUSAL = (
    "contains credentials, which would be stored with it: remove them and set them in the "
    "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS), or "
    "use the role of the machine"
)


class InputError(ValueError):
    """A configuration, file or table that cannot be used.

    The message is one line: which key or file, what was found, what to do. It repeats no secret.
    Every command prints it without a traceback and ends with exit code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


def refuse_credentials(uri: str) -> None:
    """Raise InputError, which does not repeat the URI, if it contains a password or a key."""
    if uri_holds_credentials(uri):
        raise InputError(f"the URI {REFUSAL}")


def cause_of(text: str) -> str:
    """Return the last line of a traceback or log, as `Error: message`, without secrets."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "it ended without a message"
    return redacted(last.removeprefix("mdsrec.errors.InputError: "))[:LONGEST_CAUSE]


def near_file(path: str) -> str:
    """Return `; did you mean orders.csv?` if a local file of such a name is there, else nothing."""
    try:
        names = [file.name for file in Path(path).parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(Path(path).name, names, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""
