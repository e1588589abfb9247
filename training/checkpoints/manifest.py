"""What a rank says of its part of a checkpoint, and whether that still stands."""

import json
import zlib
from typing import Any, NamedTuple

from pyarrow import fs

from mdsrec import files

CHUNK = 1 << 22
NEVER_COMPLETE = "was never complete"


def damage_of(uri: str, rank: int = 0, world_size: int = 1) -> str | None:
    """What is wrong with a checkpoint, in words; None if each file is there as it was written.

    Of several ranks that look, each sees to its share of the parts, whoever wrote them.
    """
    try:
        for part in range(rank, _manifest_of(uri, 0).world_size, world_size):
            for file in _manifest_of(uri, part).files:
                _check_file(uri, file)
    except DamageError as damage:
        return str(damage)
    return None


class DamageError(Exception):
    """What is wrong, in words."""


class Written(NamedTuple):
    path: str
    bytes: int
    crc32: str


class Manifest(NamedTuple):
    """What one rank wrote into a checkpoint."""

    world_size: int
    files: list[Written]


def _manifest_of(uri: str, rank: int) -> Manifest:
    content = files.read_bytes(f"{uri}/{manifest_name(rank)}")
    if content is None:
        raise DamageError(f"without {manifest_name(rank)} it {NEVER_COMPLETE}")
    try:
        found = json.loads(content)
        return Manifest(int(found["world_size"]), [Written(**entry) for entry in found["files"]])
    except (ValueError, KeyError, TypeError):
        raise DamageError(f"{uri}/{manifest_name(rank)} is no manifest") from None


def _check_file(uri: str, file: Written) -> None:
    filesystem, folder = files.file_system(uri)
    info = filesystem.get_file_info(f"{folder}/{file.path}")
    if info.type != fs.FileType.File:
        raise DamageError(f"{uri}/{file.path} is missing")
    if info.size != file.bytes:
        raise DamageError(f"{uri}/{file.path} has {info.size:,} bytes, {file.bytes:,} were written")
    with filesystem.open_input_stream(f"{folder}/{file.path}") as stream:
        if (found := checksum(stream)) != file.crc32:
            raise DamageError(
                f"{uri}/{file.path} has the checksum {found}, {file.crc32} was written"
            )


def manifest_name(rank: int) -> str:
    return f"manifest-{rank}.json"


def checksum(stream: Any) -> str:
    """crc32 of what is left of a stream, in hex digits."""
    found = 0
    while chunk := stream.read(CHUNK):
        found = zlib.crc32(chunk, found)
    return f"{found:08x}"
