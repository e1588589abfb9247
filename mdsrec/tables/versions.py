"""The version folders of tables: each commit has one of its own."""

import re
import threading
import time
import uuid
from contextlib import suppress

import pyarrow as pa
from pyarrow import fs

from mdsrec.files import delete_folder, file_system, read_json
from mdsrec.tables.manifest import MANIFEST, READ_ERRORS

VERSION = re.compile("[0-9a-f]{12}")
ABANDONED_AFTER = 86_400  # seconds


class _Uncommitted(threading.local):
    """The version folders of this thread, as each thread may build the tables of another root."""

    def __init__(self) -> None:
        self.versions: set[str] = set()


_uncommitted = _Uncommitted()


def new_version(uri: str) -> str:
    """Return a new version folder below the table at `uri`, until `commit` one of no table."""
    version = f"{uri}/{uuid.uuid4().hex[:12]}"
    _uncommitted.versions.add(version)
    return version


def discard_uncommitted() -> None:
    """Delete what this thread wrote for tables that it did not commit: a full disk needs it."""
    while _uncommitted.versions:
        with suppress(OSError, pa.ArrowException):
            delete_folder(_uncommitted.versions.pop())


def mark_committed(version: str) -> None:
    """Note that a version folder is that of a table now."""
    _uncommitted.versions.discard(version)


def listed_versions(uri: str) -> set[str]:
    """Return the version folders in the current manifest; none if it is damaged."""
    try:
        listed = read_json(f"{uri}/{MANIFEST}").get("files", [])
        return {file["path"].split("/", 1)[0] for file in listed}
    except READ_ERRORS:
        return set()


def versions(uri: str) -> set[str]:
    filesystem, path = file_system(uri)
    found = {info.base_name for info in filesystem.get_file_info(fs.FileSelector(path))}
    return {name for name in found if VERSION.fullmatch(name)}


def is_abandoned(uri: str) -> bool:
    """Return whether a version folder is old enough that no writer still uses it."""
    filesystem, path = file_system(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    found.append(filesystem.get_file_info(path))
    newest = max((info.mtime.timestamp() for info in found if info.mtime), default=0.0)
    return time.time() - newest > ABANDONED_AFTER
