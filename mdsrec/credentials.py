"""Protection of credentials: no error, log line, page, command or stored file repeats one.

`redacted` is the one redaction: errors (`InputError`), log lines and printed commands go through
it. It hides what has the form of a secret, and the values that `remember_secrets` was given. A
value as the user wrote it, such as an override, goes through `without_secret`, which may hide more.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HIDDEN = "..."
SECRET_PROPERTIES = (("spark", "settings"), ("input", "options"))
"""Sections that may hold credentials. They are hidden whole and never stored."""

SHORTEST, SHORTEST_PROPERTY = 4, 8  # characters of a value that is looked for in every text
NOT_SECRET = ("item_key",)  # a key of ours
HARMLESS_QUERY = (  # options that pyarrow reads from a URI
    *("region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion"),
    *("user", "replication", "buffer_size", "default_block_size", "retry_limit_seconds"),
)

WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
SECRET_WORDS = frozenset(["key", "sas", "sig", "signature", "pwd", "jwt", "authorization"])
SECRET_PARTS = re.compile(
    r"passw|passphrase|passcode|secret|credential|token(?!s\b|s_|iz)"
    r"|(?:api|access|account|private|shared)[._-]?key",
    re.IGNORECASE,
)

AUTHORITY = re.compile(r"://[^/@:]*:(?!\d+/)[^@]*@|://[^/@]*%3A[^/@]*@|\bhttps?://[^/@]+@", re.I)
OBJECT_AUTHORITY = re.compile(r"^(?:s3[an]?|gs|gcs|oss)://[^/@]*:[^@]*@", re.IGNORECASE)  # no port
QUERY_NAME = re.compile(r"(?:^|[?&;#])([\w.%-]+)=")
NO_SCHEME = re.compile(r"^[\w.%+-]+:[^\s/@]+@[\w\[]")
PROPERTIES = re.compile(
    r"(?<![\w./=])([\"']?(?:spark(?=.*settings)|input(?=.*options))[^=:]*[=:]).*", re.DOTALL
)
ENVIRONMENT = re.compile(r"^(\s*(?:export\s+)?[A-Z][A-Z0-9_]{2,}\s*=).*", re.DOTALL)

USERINFO = re.compile(r"""(:/{1,2})[^\s"'<>/@]*(?::|%3[Aa])[^\s"'<>]*@""")
TOKEN_AS_USER = re.compile(r"""(\bhttps?://)[^\s"'<>@]+@""", re.IGNORECASE)
USER_WITHOUT_SCHEME = re.compile(r"""(?<![\w.%+/-])[\w.%+-]+:(?!//)[^\s"'@<>]+@(?=[\w\[/])""")
ADDRESS = re.compile(r"""([A-Za-z][\w+.-]*:/{1,2}[^\s"'<>?#;]*)([?#;][^\s"'<>]*)""")
QUERY_ITEM = re.compile(r"([?&;#])([^=&;#]*)(=?)([^&;#]*)")
ASSIGNMENT = re.compile(
    r"""([A-Za-z][\w.-]*)(\\*["']?\]?(?:\s*=>?\s*|:(?!//))|\\*["']\]?\s*:\s*)"""
    r"""(\\*"(?:[^"\\]|\\.)*"?|\\*'(?:[^'\\]|\\.)*'?|[\[{(].*|[^\s"']\S*)"""
)
WRITTEN = re.compile(r"""([A-Za-z][\w.-]*)\s*\\*["']?\]?\s*[=:](?!//)""")
OPTION = re.compile(r"(?<!\S)(--[\w-]+)\s+(?!--)\S+")
KNOWN_FORMS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}|\bhf_[A-Za-z0-9]{16,}"
    r"|\bxox[a-z]-[\w-]{10,}|\bsk-[\w-]{16,}|\bglpat-[\w-]{16,}"
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*",
    re.DOTALL,
)
HEADER = re.compile(r"\b(bearer|basic)(\s+)(?=\S*\d)\S+", re.IGNORECASE)
PLACEHOLDERS = ("value", "VALUE", HIDDEN)

_remembered: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Return whether a key, a variable or an option with this name may hold a secret."""
    if name.rpartition(".")[2] in NOT_SECRET:
        return False
    words = {word.lower() for word in WORDS.findall(name)}
    return bool(SECRET_PARTS.search(name) or words & SECRET_WORDS)


def holds_credentials(text: str) -> bool:
    """Return whether a text or URI that would be stored contains a password, a key or a token."""
    if text.startswith("/"):
        return False
    found = uri_holds_credentials(text) or NO_SCHEME.search(text) or KNOWN_FORMS.search(text)
    return bool(found or any(map(is_secret_name, QUERY_NAME.findall(text))))


def uri_holds_credentials(uri: str) -> bool:
    """Return whether a URI contains a password or a key. A local path contains none."""
    if "://" not in uri:
        return False
    if AUTHORITY.search(uri) or OBJECT_AUTHORITY.search(uri):
        return True
    query = re.split("[?#;]", uri, maxsplit=1)[1:]
    return any(is_secret_name(name) for part in query for name in QUERY_NAME.findall(part))


def without_secret(text: str) -> str:
    """Return a value as the user wrote it, such as an override or a line of a file, for output.

    From the first secret on everything is hidden: its end is not known.
    """
    text = PROPERTIES.sub(rf"\1{HIDDEN}", text)
    text = ENVIRONMENT.sub(rf"\1{HIDDEN}", text)
    for named in WRITTEN.finditer(text):
        if is_secret_name(named[1]):
            text = f"{text[: named.end()]}{HIDDEN}"
            break
    if uri_holds_credentials(text):
        text = text.partition("://")[0] + f"://{HIDDEN}"
    return redacted(text)


def redacted(text: str) -> str:
    """Return a message for output, each secret in it replaced by `...`."""
    for secret in sorted(_remembered, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = KNOWN_FORMS.sub(HIDDEN, text)
    text = USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = TOKEN_AS_USER.sub(rf"\1{HIDDEN}@", text)
    text = USER_WITHOUT_SCHEME.sub(f"{HIDDEN}@", text)
    text = ADDRESS.sub(lambda found: found[1] + QUERY_ITEM.sub(_query_item, found[2]), text)
    text = ASSIGNMENT.sub(_assignment, text)
    text = OPTION.sub(
        lambda found: f"{found[1]} {HIDDEN}" if is_secret_name(found[1]) else found[0], text
    )
    return HEADER.sub(rf"\1\2{HIDDEN}", text)


def _query_item(found: re.Match[str]) -> str:
    mark, name, equals, value = found.groups()
    if name in HARMLESS_QUERY or not (name or value):
        return found[0]
    return f"{mark}{name}={HIDDEN}" if equals else f"{mark}{HIDDEN}"


def _assignment(found: re.Match[str]) -> str:
    name, sign, value = found.groups()
    if value.strip("\"'").rstrip(",;:)]}") in PLACEHOLDERS:
        return found[0]
    if is_secret_name(name):
        quote = value[0] if value[0] in "\"'" else ""
        return f"{name}{sign}{quote}{HIDDEN}{quote}"
    return name + sign + ASSIGNMENT.sub(_assignment, value)


def remember_secrets(content: Mapping[str, Any]) -> None:
    """Hide the secrets of a configuration, or of an environment, in every later output.

    These are the values of keys that are named like secrets and of SECRET_PROPERTIES, and the
    secret parts of URIs.
    """
    for keys, value in _leaves(content, ()):
        text = str(value)
        is_property = keys[:2] in SECRET_PROPERTIES and isinstance(value, str)
        if is_secret_name(keys[-1]):
            found = [text]
        else:
            found = [text] if is_property and len(text) >= SHORTEST_PROPERTY else []
            found += _secret_parts(text)
        _remembered.update(
            part for part in found if len(part) >= SHORTEST and not _is_local_path(part)
        )


def _is_local_path(text: str) -> bool:
    """Return whether a text is the path of something here, as that of a file of secrets is."""
    try:
        return text.startswith("/") and Path(text).exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _leaves(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of nested sections and lists, each with its keys."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, (*keys, str(key)))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _leaves(value, keys)
    elif not isinstance(content, bool) and content is not None:
        yield keys, content


def _secret_parts(text: str) -> Iterator[str]:
    """Yield the passwords and the values of secret options in a URI."""
    _, found, rest = text.partition("://")
    if found and uri_holds_credentials(text):
        user, colon, password = rest.rpartition("@")[0].partition(":")
        yield password if colon else user
    for name, value in re.findall(r"(?:^|[?&;#\s])([\w.%-]+)=([^&;#\s]*)", text):
        if is_secret_name(name):
            yield value
