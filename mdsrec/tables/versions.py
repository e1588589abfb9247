"""The version folders of tables: each commit has one of its own."""

import re
import threading
import time
import uuid
from contextlib import suppress

import pyarrow as pa
from pyarrow import fs

from mdsrec.files import delete_file, delete_folder, file_system
from mdsrec.tables.manifest import MANIFEST

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


def versions(uri: str) -> set[str]:
    """Return the version folders of a table, listed or not."""
    return {name for name in folders_of(uri) if VERSION.fullmatch(name)}


def folders_of(uri: str) -> list[str]:
    """Return the sorted names of the folders in a folder; none if it does not exist."""
    filesystem, path = file_system(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def delete_table(uri: str) -> None:
    """Delete a table: its manifest first, so that a kill leaves no table without its files."""
    delete_file(f"{uri}/{MANIFEST}")
    delete_folder(uri)


def is_abandoned(uri: str) -> bool:
    """Return whether a version folder is old enough that no writer still uses it."""
    filesystem, path = file_system(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    found.append(filesystem.get_file_info(path))
    newest = max((info.mtime.timestamp() for info in found if info.mtime), default=0.0)
    return time.time() - newest > ABANDONED_AFTER
