"""Reading complete tables: whole, by row groups, or streamed in bounded memory."""

import logging
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import pyarrow as pa
from pyarrow import fs

from mdsrec import parquet_groups
from mdsrec.errors import InputError
from mdsrec.files import file_system, first_line
from mdsrec.jobs import promises
from mdsrec.parquet_groups import RowGroup, StoredGroup
from mdsrec.tables.manifest import (
    READ_ERRORS,
    DataFile,
    Manifest,
    OtherVersionError,
    Recipe,
    read_manifest,
    stored_manifest,
)

ETL_FIRST = "run `mdsrec etl CONFIG` first"

log = logging.getLogger("mdsrec")


def find_table(uri: str, recipe: Recipe) -> Manifest | None:
    """Return the manifest of a complete table that was built by `recipe`, or None."""
    try:
        manifest = stored_manifest(uri)
    except OtherVersionError:
        return None
    except InputError as error:
        log.warning("%s: built again", error)
        return None
    if manifest is None or manifest.fingerprint != recipe.fingerprint:
        return None
    promises.check(uri, manifest.fingerprint)
    return manifest if damage(uri, manifest) is None else None


def open_table(uri: str, remedy: str = ETL_FIRST) -> Manifest:
    """Return the manifest of a complete table; InputError with `remedy` if it is not."""
    manifest = read_manifest(uri)
    if manifest is None:
        raise InputError(f"{uri}: no such table: {remedy}")
    if problem := damage(uri, manifest):
        raise InputError(f"{problem}: {remedy}")
    if any(file.digests is None for file in manifest.files):
        _say_unchecked(uri)
    return manifest


@cache
def _say_unchecked(uri: str) -> None:
    """Log once in a process that a table has no digests."""
    log.info("%s: written by an older version, without digests: its bytes are not checked", uri)


def data_files(uri: str, manifest: Manifest) -> list[str]:
    """Return the paths of the table's files in its file system, in order."""
    return [f"{file_system(uri)[1]}/{file.path}" for file in manifest.files]


def stored_groups(uri: str, manifest: Manifest) -> list[StoredGroup]:
    """Return the row groups of a table in order.

    The manifest describes them. In one of an older version it does not: then the footers are read,
    once in a process.
    """
    paths = data_files(uri, manifest)
    groups = [file.row_groups for file in manifest.files]
    digests = [file.digests for file in manifest.files]
    if any(group is None for group in groups):
        return parquet_groups.stored_groups(paths, _footers(uri, tuple(paths)), digests)
    return parquet_groups.stored_groups(paths, [group or () for group in groups], digests)


@lru_cache(maxsize=16)
def _footers(uri: str, paths: tuple[str, ...]) -> list[tuple[RowGroup, ...]]:
    return parquet_groups.read_footers(paths, file_system(uri)[0])


def stream_table(
    uri: str,
    manifest: Manifest,
    table_schema: pa.Schema,
    columns: Sequence[str],
    between: tuple[int, int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield all rows of an opened table in order, in batches of bounded memory.

    `between` yields only rows whose first column, which ascends, has first <= value < last.
    InputError if a file is damaged.
    """
    wanted = pa.schema([table_schema.field(name) for name in columns])
    groups = stored_groups(uri, manifest)
    try:
        if between is None:
            yield from parquet_groups.batches(uri, groups, wanted)
        else:
            yield from parquet_groups.batches_between(uri, groups, wanted, *between)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(f"{uri}: unreadable ({first_line(error)}): {ETL_FIRST}") from None


def read_table(
    uri: str,
    table_schema: pa.Schema,
    columns: list[str] | None = None,
    remedy: str = ETL_FIRST,
) -> pa.Table:
    """Read all rows in order, in the types of the schema; InputError if absent or damaged."""
    manifest = open_table(uri, remedy)
    wanted = (
        table_schema if columns is None else pa.schema([table_schema.field(c) for c in columns])
    )
    try:
        parts = [
            _read_file(uri, path, file, wanted).select(wanted.names).cast(wanted)
            for path, file in zip(data_files(uri, manifest), manifest.files, strict=True)
        ]
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(f"{uri}: unreadable ({first_line(error)}): {remedy}") from None
    return pa.concat_tables(parts) if parts else wanted.empty_table()


def _read_file(uri: str, path: str, file: DataFile, wanted: pa.Schema) -> pa.Table:
    with parquet_groups.open_file(uri, path, file.digests) as opened:
        return opened.read(wanted.names)


def damage(uri: str, manifest: Manifest) -> str | None:
    """Return a message about the first missing or truncated file, or None.

    Folders are listed, because storage answers that faster than a request for every file.
    """
    filesystem, path = file_system(uri)
    size_of: dict[str, int] = {}
    for folder in dict.fromkeys(file.path.rpartition("/")[0] for file in manifest.files):
        selector = fs.FileSelector(f"{path}/{folder}".rstrip("/"), allow_not_found=True)
        found = filesystem.get_file_info(selector)
        size_of |= {info.path: info.size for info in found if info.type == fs.FileType.File}
    for stored, file in zip(data_files(uri, manifest), manifest.files, strict=True):
        if stored not in size_of:
            return f"{uri}/{file.path}: a file of the table is missing"
        if size_of[stored] != file.bytes:
            return f"{uri}/{file.path}: {size_of[stored]} bytes, its manifest says {file.bytes}"
    return None
