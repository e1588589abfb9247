"""Credentials stay in the environment: no configuration, log line or report repeats one."""

import re

from mdsrec.errors import InputError

IN_AUTHORITY = re.compile(r"://[^/@:]*:(?!\d+/)[^@]*@")  # user:password@, not host:port/a@b
IN_QUERY = re.compile(r"://[^?]*\?.*(key|secret|token|password|sig)[^=&]*=", re.IGNORECASE)
HIDDEN = "..."


def refuse_credentials(uri: str) -> None:
    """InputError, which does not repeat it, if a URI holds a password or a key."""
    if IN_AUTHORITY.search(uri) or IN_QUERY.search(uri):
        raise InputError(
            "the URI holds credentials, which would be written down with it: leave them out and "
            "give them by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_APPLICATION_CREDENTIALS) or the machine's role"
        )


def shown(override: str) -> str:
    """`key=value` as it may be repeated: Spark's settings may hold a store's keys, so their values
    are left out.
    """
    key, _, value = override.partition("=")
    if key.strip().startswith("spark") and "settings" in override:
        return override.removesuffix(value) + HIDDEN
    return override
