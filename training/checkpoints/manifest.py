"""The manifests of a checkpoint: every rank lists the files it wrote, with sizes and checksums."""

import zlib
from typing import Any, NamedTuple

from pyarrow import fs

from mdsrec import files
from mdsrec.errors import InputError

CHUNK = 1 << 22
INCOMPLETE = "was never complete"


class FileRecord(NamedTuple):
    """A file of a checkpoint, as it was written."""

    path: str
    bytes: int
    crc32: str


class RankManifest(NamedTuple):
    """The files that one rank wrote into a checkpoint."""

    world_size: int
    files: list[FileRecord]


class DamageError(Exception):
    """A checkpoint that is not as it was written; the message says in what."""


def find_damage(uri: str, rank: int = 0, world_size: int = 1) -> str | None:
    """Return what is wrong with a checkpoint, or None if every file is as it was written.

    With several ranks each verifies its share of the manifests, whichever rank wrote them.
    """
    try:
        for writer in range(rank, _read_manifest(uri, 0).world_size, world_size):
            for record in _read_manifest(uri, writer).files:
                _check_file(uri, record)
    except DamageError as damage:
        return str(damage)
    return None


def is_complete(uri: str) -> bool:
    """Return whether every rank has finished to write a checkpoint. Its files are not read."""
    try:
        for writer in range(_read_manifest(uri, 0).world_size):
            _read_manifest(uri, writer)
    except DamageError:
        return False
    return True


def manifest_name(rank: int) -> str:
    """Return the name of a rank's manifest in the checkpoint's folder."""
    return f"manifest-{rank}.json"


def checksum(stream: Any) -> str:
    """Return the CRC-32 of the rest of a stream, in hex digits."""
    crc = 0
    while chunk := stream.read(CHUNK):
        crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def _read_manifest(uri: str, rank: int) -> RankManifest:
    name = manifest_name(rank)
    try:
        fields = files.read_json(f"{uri}/{name}")
    except InputError as error:
        raise DamageError(str(error)) from None
    if not fields:
        raise DamageError(f"{name} is missing, so it {INCOMPLETE}")
    try:
        records = [FileRecord(**entry) for entry in fields["files"]]
        return RankManifest(int(fields["world_size"]), records)
    except (ValueError, KeyError, TypeError):
        raise DamageError(f"{uri}/{name} is not a manifest") from None


def _check_file(uri: str, record: FileRecord) -> None:
    filesystem, folder = files.file_system(uri)
    path = f"{folder}/{record.path}"
    info = filesystem.get_file_info(path)
    if info.type != fs.FileType.File:
        raise DamageError(f"{uri}/{record.path} is missing")
    if info.size != record.bytes:
        raise DamageError(
            f"{uri}/{record.path} has {info.size:,} bytes, {record.bytes:,} were written"
        )
    with filesystem.open_input_stream(path) as stream:
        if (found := checksum(stream)) != record.crc32:
            raise DamageError(
                f"{uri}/{record.path} has the checksum {found}, {record.crc32} was written"
            )
