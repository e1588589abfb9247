"""Promised fingerprints: what a job reads stays what it was when the job began.

Within `promised` every table that this process opens is held to a fingerprint: at its opening,
again before every commit (`check_opened`), and when anything fails, because the files of a table
that was replaced are deleted. A version that was kept for the runs that were trained on it
(`mdsrec.tables.former`) is opened instead of the current one, but not by an ETL. A process that
works for another one gets the fingerprints of it (`current`). A file, as the weights of a run, is
known by its size and time.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyarrow import fs

from mdsrec import files
from mdsrec.errors import InputError

MANIFEST = "_manifest.json"
FORMER = "_manifests"  # folder of the manifests of kept former versions, below a table
SHOWN = 8  # digits of a fingerprint

_promised: dict[str, str] = {}  # by URI of a table or a file
_opened: set[str] = set()
_current_only = [False]  # of each `promised` around: whether former versions do not count


class ReplacedError(InputError):
    """A table or file that another job replaced while this one used it."""


@contextmanager
def promised(fingerprints: Mapping[str, str], current_only: bool = False) -> Iterator[None]:
    """Hold the tables and files at these URIs to their fingerprints.

    With `current_only` a kept former version does not count. ReplacedError instead of an error
    whose reason is that one was replaced.
    """
    before = dict(_promised), set(_opened)
    _current_only.append(current_only)
    try:
        hold(fingerprints)
        yield
    except ReplacedError:
        raise
    except Exception as error:
        try:
            check_opened()
        except ReplacedError as replaced:
            raise replaced from error
        raise
    finally:
        _current_only.pop()
        _promised.clear()
        _opened.clear()
        _promised.update(before[0])
        _opened.update(before[1])


def hold(fingerprints: Mapping[str, str]) -> None:
    """Hold more tables and files to their fingerprints, up to the end of `promised`.

    ReplacedError if one was promised with another fingerprint before.
    """
    for uri, fingerprint in fingerprints.items():
        if _promised.setdefault(uri, fingerprint) != fingerprint:
            check(uri, fingerprint)


def current() -> dict[str, str]:
    """Return the fingerprints that this process holds to, for a process that works for it."""
    return dict(_promised)


def identity(uri: str) -> str | None:
    """Return the fingerprint of a table, or the size and time of a file; None if it is absent."""
    filesystem, path = files.file_system(uri)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.File:
        return f"{info.size}-{info.mtime_ns}"
    content = files.read_bytes(f"{uri}/{MANIFEST}")
    try:
        return None if content is None else str(json.loads(content)["fingerprint"])
    except (ValueError, TypeError, KeyError):
        return None


def check(uri: str, found: str | None) -> None:
    """Raise ReplacedError if the table or file that is opened is not the promised one."""
    expected = _promised.get(uri)
    if expected is None:
        return
    if found != expected:
        is_now = "gone" if found is None else f"now {found[-SHOWN:]}"
        raise ReplacedError(
            f"{uri}: replaced by another job meanwhile (this one began with "
            f"{expected[-SHOWN:]}, it is {is_now}): run the command again, and give jobs with "
            "other settings another root"
        )
    _opened.add(uri)


def check_file(uri: str) -> None:
    """Raise ReplacedError if a file is not the promised one."""
    if uri in _promised:
        check(uri, identity(uri))


def check_opened() -> None:
    """Raise ReplacedError if something that was opened has been replaced, and was not kept."""
    for uri in sorted(_opened):
        found = identity(uri)
        wanted = promised_former(uri, found)
        if wanted is None or not files.exists(f"{uri}/{wanted}"):
            check(uri, found)


def former_manifest(uri: str, fingerprint: str) -> str:
    """Return the file that holds the manifest of a former version of a table, if it was kept."""
    return f"{uri}/{FORMER}/{fingerprint}.json"


def promised_former(uri: str, found: str | None) -> str | None:
    """Return where below a table the manifest of the promised version is, if it was replaced.

    None if `found`, the current version, is the promised one, or if only that counts.
    """
    expected = _promised.get(uri)
    is_current = expected is None or found == expected
    return None if is_current or _current_only[-1] else f"{FORMER}/{expected}.json"


def note_opened(uri: str) -> None:
    """Let `check_opened` look at a table."""
    _opened.add(uri)
