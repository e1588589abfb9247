"""What the user can mend. Everything else is our own mistake and keeps its traceback."""


class InputError(ValueError):
    """A configuration, file or table that cannot be used: one line that says which, what was found,
    what to do.

    Every command prints it without a traceback and ends with exit code 2.
    """
