"""Protection of credentials: no configuration, log line or report may repeat one."""

import re

from mdsrec.errors import InputError

IN_AUTHORITY = re.compile(r"://[^/@:]*:(?!\d+/)[^@]*@")  # user:password@, not host:port/a@b
IN_QUERY = re.compile(r"://[^?]*\?.*(key|secret|token|password|sig)[^=&]*=", re.IGNORECASE)
PROPERTIES = re.compile(
    r"(?<![\w./=])([\"']?(?:spark(?=.*settings)|input(?=.*options))[^=]*=).*", re.DOTALL
)
HIDDEN = "..."


def refuse_credentials(uri: str) -> None:
    """Raise InputError, which does not repeat the URI, if it contains a password or a key."""
    if IN_AUTHORITY.search(uri) or IN_QUERY.search(uri):
        raise InputError(
            "the URI contains credentials, which would be stored with it: remove them and set them "
            "in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_APPLICATION_CREDENTIALS), or use the role of the machine"
        )


def without_secret(text: str) -> str:
    """Return an override, or a message that repeats some, for output.

    Values of spark.settings and input.options may be secret and are hidden, as is a URI that
    contains credentials.
    """
    text = PROPERTIES.sub(rf"\1{HIDDEN}", text)
    if IN_AUTHORITY.search(text) or IN_QUERY.search(text):
        return text.partition("://")[0] + f"://{HIDDEN}"
    return text
