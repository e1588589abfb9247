"""The manifest of a table: its files, and the recipe that it was built by."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa

from mdsrec import schema
from mdsrec.errors import InputError
from mdsrec.files import first_line, read_json
from mdsrec.jobs import promises
from mdsrec.parquet_groups import RowGroup

MANIFEST = promises.MANIFEST
READ_ERRORS = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


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


def read_manifest(uri: str) -> Manifest | None:
    """Return the manifest of the table at `uri`, or None if no table was ever committed.

    If this job was promised another version (`mdsrec.jobs.promises`), it is that of the version, if
    it was kept, and otherwise ReplacedError.
    """
    problem: InputError | None = None
    try:
        manifest = stored_manifest(uri)
    except InputError as error:
        manifest, problem = None, error
    wanted = promises.promised_former(uri, manifest.fingerprint if manifest else None)
    if wanted is not None and (former := stored_manifest(uri, wanted)) is not None:
        promises.note_opened(uri)
        return former
    if problem is not None:
        raise problem
    if manifest is not None:
        promises.check(uri, manifest.fingerprint)
    return manifest


def stored_manifest(uri: str, name: str = MANIFEST) -> Manifest | None:
    """Return the manifest in the file `name` of a table, whatever was promised; None without it."""
    fields = read_json(f"{uri}/{name}", "rebuild it")
    if not fields:
        return None
    try:
        fields["files"] = tuple(DataFile.of(file) for file in fields["files"])
        manifest = Manifest(**fields)
    except READ_ERRORS as error:
        raise InputError(f"{uri}/{name}: damaged ({first_line(error)}): rebuild it") from None
    if manifest.schema_version != schema.VERSION:
        raise OtherVersionError(
            f"{uri}: schema version {manifest.schema_version}, "
            f"this program reads {schema.VERSION}: rebuild it"
        )
    return manifest
