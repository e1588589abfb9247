"""Files at the URIs of any pyarrow file system. Writes are atomic.

A URI is quoted (`a%20b`), a local path is not.
"""

import csv
import io
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs
from pydantic import TypeAdapter, ValidationError

from mdsrec.digests.json_text import REMEDY, checked_json, with_digest
from mdsrec.errors import InputError, refuse_credentials

T = TypeVar("T")

STORAGE_ERRORS = (OSError, pa.ArrowException, InputError)
"""Raised when storage cannot be reached; it may be back at the next try."""

SEPARATORS = (",", ";", "\t", "|")  # of CSV
NO_BUCKET = re.compile(r"(s3|gs|gcs)://(/|$)")
UNQUOTED = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9%:/?#@!$&'()*+,;=._~-]")
QUERY = re.compile(r"\w+=[^/&]*(://[^/&]*)?(&\w+=[^/&]*(://[^/&]*)?)*")  # ends the URI


def file_system(uri: str) -> tuple[fs.FileSystem, str]:
    """Return pyarrow's file system of a URI or absolute local path, and the path inside it."""
    refuse_credentials(uri)
    _refuse_cut_path(uri)
    if NO_BUCKET.match(uri):
        raise InputError(f"{uri}: names no bucket: write {uri.partition(':')[0]}://BUCKET/FOLDER")
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        if escapes := _missing_escapes(uri):
            raise InputError(f"{uri}: not a valid URI: quote {escapes}") from None
        raise InputError(f"{uri}: unknown file system: {first_line(error)}") from None
    return filesystem, path


def join(folder: str, name: str) -> str:
    """Return the URI or path of the file `name` in a folder.

    In a URI the name is quoted and put before a query, as in `s3://bucket/a%20b?region=eu-west-1`.
    """
    if "://" not in folder:
        return f"{folder.rstrip('/')}/{name}"
    path, mark, query = folder.partition("?")
    return f"{path.rstrip('/')}/{quote(name)}{mark}{query}"


def _refuse_cut_path(uri: str) -> None:
    """Raise InputError if a URI has a `#` or `?` at which its path would end unnoticed."""
    if "://" not in uri:
        return
    path, mark, query = uri.partition("?")
    if "#" in uri:
        raise InputError(f"{uri}: the path of a URI ends at '#': quote it as %23")
    if mark and (path.startswith("file:") or not QUERY.fullmatch(query)):
        raise InputError(
            f"{uri}: the path of a URI ends at '?': quote it as %3F; options such as ?region=... "
            "may end the URI of an input, not the root"
        )


def _missing_escapes(uri: str) -> str:
    """Return the characters that the path of a URI must quote, as `' ' as %20, '[' as %5B`."""
    path = uri.partition("://")[2].partition("/")[2]
    characters = dict.fromkeys(UNQUOTED.findall(path))
    return ", ".join(f"{character!r} as {quote(character)}" for character in characters)


def check_root(root: str, key: str = "root") -> None:
    """Raise InputError naming the configuration's `key` unless `root` can be created, written."""
    token = f"{root}/.mdsrec-{uuid.uuid4().hex}"
    try:
        filesystem, path = file_system(root)
        filesystem.create_dir(path, recursive=True)
        write_bytes(token, b"")
        filesystem.delete_file(file_system(token)[1])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{key} {root}: cannot be written: {first_line(error)}") from None


def check_folder(uri: str, key: str) -> None:
    """Raise InputError naming the configuration's `key` unless `uri` is a folder."""
    filesystem, path = file_system(uri)
    try:
        is_folder = filesystem.get_file_info(path).type == fs.FileType.Directory
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{key} = {uri}: cannot be read: {first_line(error)}") from None
    if not is_folder:
        raise InputError(f"{key} = {uri}: no such folder")


def check_room(uri: str, needed: int, purpose: str) -> None:
    """Raise InputError if a local file system has fewer than `needed` bytes free for `purpose`.

    The size of other storage is not known.
    """
    filesystem, path = file_system(uri)
    if filesystem.type_name != "local":
        return
    folder = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {free >> 20:,} MiB free, but {purpose} take {needed >> 20:,} MiB at least: "
            "free some, or choose another disk"
        )


def write_bytes(uri: str, content: bytes | memoryview) -> None:
    """Replace a file atomically: a killed writer leaves the old content."""
    write_stream(uri, lambda stream: stream.write(content))


def write_stream(uri: str, write: Callable[[BinaryIO], Any]) -> None:
    """Replace a file atomically by what `write` writes to the stream that it gets."""
    filesystem, path = file_system(uri)
    if filesystem.type_name in ("s3", "gcs", "abfs"):  # closing the stream creates the object
        with filesystem.open_output_stream(path) as stream:
            write(stream)
        return
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with filesystem.open_output_stream(partial) as stream:
            write(stream)
        filesystem.move(partial, path)
    except (OSError, pa.ArrowException):  # a full disk needs the space again
        with suppress(OSError, pa.ArrowException):
            filesystem.delete_file(partial)
        raise


def read_bytes(uri: str) -> bytes | None:
    """Return the content of a file, or None if it does not exist."""
    filesystem, path = file_system(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def exists(uri: str) -> bool:
    """Return whether there is a file at `uri`."""
    filesystem, path = file_system(uri)
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def read_json(uri: str, remedy: str = REMEDY) -> dict[str, Any]:
    """Return the object in a JSON file, {} if it does not exist. InputError if it is damaged."""
    content = read_bytes(uri)
    return {} if content is None else checked_json(uri, content, remedy)


def damaged_json(uri: str, problem: BaseException | str, remedy: str = "") -> InputError:
    """Return the error of a JSON file that was torn or edited."""
    text = problem if isinstance(problem, str) else first_line(problem)
    remedy = remedy or "restore it, or delete it and run the command that wrote it again"
    return InputError(f"{uri}: damaged ({text}): {remedy}")


def checked_fields(kind: type[T], fields: Any, uri: str, remedy: str = "") -> T:
    """Return the dataclass `kind` of a JSON file's fields. InputError if it was edited."""
    try:
        return TypeAdapter(kind).validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        at = ".".join(map(str, first["loc"]))
        raise damaged_json(uri, f"{at}: {first['msg']}", remedy) from None


def write_json(uri: str, content: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically. It holds a digest of its text."""
    write_bytes(uri, with_digest(content))


def delete_folder(uri: str) -> None:
    """Delete a folder and its content, if it exists."""
    filesystem, path = file_system(uri)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        filesystem.delete_dir(path)


def delete_file(uri: str) -> None:
    """Delete a file, if it exists."""
    filesystem, path = file_system(uri)
    if filesystem.get_file_info(path).type == fs.FileType.File:
        filesystem.delete_file(path)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def likely_separators(text: str) -> list[str]:
    """Return the separators that cut the first row of CSV into the most columns: one, if clear.

    A row that no separator cuts has a single column, and any will do: the first is returned.
    """
    widths = {
        separator: len(next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), ()))
        for separator in SEPARATORS
    }
    best = max(widths.values())
    found = [separator for separator, width in widths.items() if width == best]
    return found if best > 1 else found[:1]
