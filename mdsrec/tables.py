"""Parquet tables below one root URI (local, s3://, gs://, hdfs://), committed atomically.

A table is a folder of Parquet files with a `_manifest.json` that lists them. A writer puts its
files into a new version folder and replaces the manifest last, in one step. Therefore a table
without a manifest does not exist, a killed writer leaves the old table intact, and readers open
only listed files.
"""

import hashlib
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mdsrec import parquet_groups, schema
from mdsrec.errors import InputError
from mdsrec.files import delete_folder, file_system, first_line, read_json, write_json
from mdsrec.jobs import promises
from mdsrec.jobs.lease import check_leases
from mdsrec.parquet_groups import RowGroup, StoredGroup

MANIFEST = promises.MANIFEST
ETL_FIRST = "run `mdsrec etl CONFIG` first"
VERSION = re.compile("[0-9a-f]{12}")
ABANDONED_AFTER = 86_400  # seconds
READ_ERRORS = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)

log = logging.getLogger("mdsrec")

FileDigests = Callable[[Sequence[str], fs.FileSystem], list[str]]
"""Returns the digests of the blocks of each file, from their paths and file system."""


class OtherVersionError(InputError):
    """A table that another version of this program wrote."""


@dataclass(frozen=True)
class DataFile:
    path: str  # below the table's folder
    rows: int
    bytes: int
    row_groups: tuple[RowGroup, ...] | None = None  # None in manifests of older versions
    digests: str | None = None  # of its blocks (mdsrec.digests); None in older manifests

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """Return the file that a manifest describes."""
        groups = fields.get("row_groups")
        found = None if groups is None else tuple(RowGroup(**group) for group in groups)
        return cls(**fields | {"row_groups": found})


@dataclass(frozen=True)
class Manifest:
    """The content of a table and the recipe it was built by."""

    fingerprint: str
    rows: int
    files: tuple[DataFile, ...]
    inputs: dict[str, str] = field(default_factory=dict)  # fingerprints of the input tables by name
    settings: dict[str, Any] = field(default_factory=dict)  # see mdsrec.table_settings
    counters: dict[str, Any] = field(default_factory=dict)
    schema_version: int = schema.VERSION


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a table's content. A table with the same recipe is not rebuilt."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        return fingerprint([schema.VERSION, dict(self.settings), dict(self.inputs)])


def fingerprint(value: Any) -> str:
    """Return 16 hex digits of the SHA-256 of a value's canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def table_uri(root: str, name: str) -> str:
    """Return the folder of a table."""
    return f"{root}/dataset/{name}"


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


def read_manifest(uri: str) -> Manifest | None:
    """Return the manifest of the table at `uri`, or None if no table was ever committed.

    ReplacedError if it is not the table that this job was promised (`mdsrec.jobs.promises`).
    """
    fields = read_json(f"{uri}/{MANIFEST}", "rebuild it")
    if not fields:
        return None
    try:
        fields["files"] = tuple(DataFile.of(file) for file in fields["files"])
        manifest = Manifest(**fields)
    except READ_ERRORS as error:
        raise InputError(f"{uri}/{MANIFEST}: damaged ({first_line(error)}): rebuild it") from None
    if manifest.schema_version != schema.VERSION:
        raise OtherVersionError(
            f"{uri}: schema version {manifest.schema_version}, "
            f"this program reads {schema.VERSION}: rebuild it"
        )
    promises.check(uri, manifest.fingerprint)
    return manifest


def find_table(uri: str, recipe: Recipe) -> Manifest | None:
    """Return the manifest of a complete table that was built by `recipe`, or None."""
    try:
        manifest = read_manifest(uri)
    except OtherVersionError:
        return None
    except InputError as error:
        log.warning("%s: built again", error)
        return None
    if manifest is None or manifest.fingerprint != recipe.fingerprint:
        return None
    return manifest if _damage(uri, manifest) is None else None


def commit(
    uri: str,
    version: str,
    recipe: Recipe,
    expected_rows: int,
    counters: Mapping[str, Any] | None = None,
    digest_files: FileDigests = parquet_groups.digest_files,
) -> Manifest:
    """Make the Parquet files in the folder `version` the table at `uri`, and delete the old files.

    `digest_files` reads the files for the digests of their blocks. InputError if they do not have
    `expected_rows` rows, as when nodes do not share the root, if a table that this job reads was
    replaced, or if another job took over its lease.
    """
    filesystem, path = file_system(uri)
    found = filesystem.get_file_info(fs.FileSelector(file_system(version)[1], recursive=True))
    found = sorted((i for i in found if i.path.endswith(".parquet")), key=lambda i: i.path)
    footers = parquet_groups.read_footers([info.path for info in found], filesystem)
    filled = [(info, groups) for info, groups in zip(found, footers, strict=True) if groups]
    rows = sum(group.rows for _, groups in filled for group in groups)
    if rows != expected_rows:
        raise InputError(
            f"{uri}: {expected_rows} rows were written, {rows} were found: "
            "put the root on storage that all nodes share"
        )
    digests = digest_files([info.path for info, _ in filled], filesystem)
    files = [
        DataFile(info.path.removeprefix(path + "/"), sum(g.rows for g in groups), info.size, groups)
        for info, groups in filled
    ]
    manifest = Manifest(
        fingerprint=recipe.fingerprint,
        rows=rows,
        files=tuple(replace(f, digests=text) for f, text in zip(files, digests, strict=True)),
        inputs=dict(recipe.inputs),
        settings=dict(recipe.settings),
        counters=dict(counters or {}),
    )
    check_leases()
    promises.check_opened()
    former = _listed_versions(uri)
    write_json(f"{uri}/{MANIFEST}", asdict(manifest))
    _uncommitted.versions.discard(version)
    for name in _versions(uri) - {version.rsplit("/", 1)[1]}:
        if name in former or _abandoned(f"{uri}/{name}"):
            delete_folder(f"{uri}/{name}")
    return manifest


def _listed_versions(uri: str) -> set[str]:
    """Return the version folders in the current manifest; none if it is damaged."""
    try:
        listed = read_json(f"{uri}/{MANIFEST}").get("files", [])
        return {file["path"].split("/", 1)[0] for file in listed}
    except READ_ERRORS:
        return set()


def _versions(uri: str) -> set[str]:
    filesystem, path = file_system(uri)
    found = {info.base_name for info in filesystem.get_file_info(fs.FileSelector(path))}
    return {name for name in found if VERSION.fullmatch(name)}


def _abandoned(uri: str) -> bool:
    """Return whether a version folder is old enough that no writer still uses it."""
    filesystem, path = file_system(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    found.append(filesystem.get_file_info(path))
    newest = max((info.mtime.timestamp() for info in found if info.mtime), default=0.0)
    return time.time() - newest > ABANDONED_AFTER


def write_table(
    uri: str,
    batches: Iterable[pa.RecordBatch],
    table_schema: pa.Schema,
    recipe: Recipe,
    counters: Mapping[str, Any] | None = None,
) -> Manifest:
    """Stream `batches` into one zstd Parquet file and commit it as the table at `uri`."""
    version = new_version(uri)
    filesystem, path = file_system(version)
    filesystem.create_dir(path, recursive=True)
    rows = 0
    with pq.ParquetWriter(
        f"{path}/part-00000.parquet", table_schema, filesystem=filesystem, compression="zstd"
    ) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return commit(uri, version, recipe, rows, counters)


def open_table(uri: str, remedy: str = ETL_FIRST) -> Manifest:
    """Return the manifest of a complete table; InputError with `remedy` if it is not."""
    manifest = read_manifest(uri)
    if manifest is None:
        raise InputError(f"{uri}: no such table: {remedy}")
    damage = _damage(uri, manifest)
    if damage:
        raise InputError(f"{damage}: {remedy}")
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


def _damage(uri: str, manifest: Manifest) -> str | None:
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
