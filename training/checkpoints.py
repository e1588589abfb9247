"""A run's checkpoints, under `<run>/checkpoints`: complete or absent, the newest two.

Every rank writes its files, then a manifest of them with sizes and checksums. A checkpoint stands
once each rank's manifest is there. Its name tells the position, so names sort by age.
"""

import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from mdsrec import files
from training.ranks import JointError, Ranks
from training.stopping import OUT_OF_REACH

log = logging.getLogger("training")

CHUNK = 1 << 22


class Checkpoints:
    """Collective: every rank calls the same method at the same point."""

    def __init__(self, run: str, ranks: Ranks) -> None:
        self.uri = f"{run}/checkpoints"
        self._ranks = ranks
        self._newest: str | None = None  # that this training read or wrote

    def newest(self) -> str | None:
        """The newest whole checkpoint, None where none was ever complete; a damaged one is named
        in the log, JointError if there is none but damaged ones.
        """
        found = self._newest_whole() if self._ranks.rank == 0 else ""
        self._newest = self._ranks.told_by_first(found)
        if self._newest == "":
            raise JointError(
                f"{self.uri}: every checkpoint is damaged: train the run anew with --fresh"
            )
        return self._newest

    def _newest_whole(self) -> str | None:
        """Its name; empty if all that were complete once are damaged."""
        damaged = False
        for name in _names(self.uri):
            damage = damage_of(f"{self.uri}/{name}")
            if damage is None:
                return name
            log.warning("checkpoint %s is refused: %s", name, damage)
            damaged |= not damage.endswith(NEVER_COMPLETE)
        return "" if damaged else None

    def save(self, name: str, write: Callable[[Path], None]) -> str | None:
        """Let every rank `write` its files into a folder that it is given -> None, or what kept
        this rank or another from it; then the former checkpoints stay as they were.
        """
        if name == self._newest:
            return None
        uri = f"{self.uri}/{name}"
        own = OwnFolder(uri)
        trouble = None
        if self._ranks.rank == 0:  # an earlier attempt may have left its files there
            trouble = trouble_of(lambda: files.delete_folder(uri))
        if self._ranks.all(trouble is None):
            trouble = trouble_of(own.make)
        if self._ranks.all(trouble is None):  # before `write`, in which the ranks may meet
            trouble = trouble_of(lambda: own.fill(self._ranks, write))
        own.remove()
        if trouble is not None:
            log.warning("checkpoint %s: rank %d: %s", name, self._ranks.rank, trouble)
        if not self._ranks.all(trouble is None):
            if self._ranks.rank == 0:
                trouble_of(lambda: files.delete_folder(uri))
            return trouble or "another worker could not write its part"
        former, self._newest = self._newest, name
        if self._ranks.rank == 0:
            trouble_of(lambda: _delete_all_but(self.uri, {former, name}))
        return None


def trouble_of(action: Callable[[], None]) -> str | None:
    """Why nothing could be written; none if it could."""
    try:
        action()
    except OUT_OF_REACH as error:
        return files.first_line(error)
    return None


def _delete_all_but(uri: str, kept: set[str | None]) -> None:
    for name in _names(uri):
        if name not in kept:
            files.delete_folder(f"{uri}/{name}")


def _names(uri: str) -> list[str]:
    """Newest first."""
    filesystem, path = files.file_system(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    folders = (info.base_name for info in found if info.type == fs.FileType.Directory)
    return sorted(folders, reverse=True)


class OwnFolder:
    """Where a rank writes before its files stand below `uri`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._own: tempfile.TemporaryDirectory[str] | None = None

    def make(self) -> None:
        filesystem, path = files.file_system(self._uri)
        filesystem.create_dir(path, recursive=True)
        beside = path if filesystem.type_name == "local" else None
        self._own = tempfile.TemporaryDirectory(prefix=".rank-", dir=beside)

    def fill(self, ranks: Ranks, write: Callable[[Path], None]) -> None:
        """Let `write` fill the folder, move its files, and say in a manifest that all stand."""
        assert self._own is not None
        folder = Path(self._own.name)
        write(folder)
        listed = []
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = file.relative_to(folder).as_posix()
            entry = {"path": name, "bytes": file.stat().st_size}
            with file.open("rb") as stream:
                listed.append({**entry, "crc32": _checksum(stream)})
            _move(file, f"{self._uri}/{name}")
        manifest = {"world_size": ranks.world_size, "files": listed}
        files.write_json(f"{self._uri}/{_manifest(ranks.rank)}", manifest)

    def remove(self) -> None:
        if self._own is not None:
            with suppress(OSError):
                self._own.cleanup()


def _move(file: Path, uri: str) -> None:
    filesystem, target = files.file_system(uri)
    filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
    if filesystem.type_name == "local":
        file.replace(target)
    else:
        fs.copy_files(str(file), target, fs.LocalFileSystem(), filesystem)


NEVER_COMPLETE = "was never complete"


def damage_of(uri: str) -> str | None:
    """What is wrong with a checkpoint, in words; None if each file is there as it was written."""
    world_size, rank = 1, 0
    while rank < world_size:
        content = files.read_bytes(f"{uri}/{_manifest(rank)}")
        if content is None:
            return f"without {_manifest(rank)} it {NEVER_COMPLETE}"
        try:
            manifest = json.loads(content)
            world_size = manifest["world_size"]
            damages = [_file_damage(uri, **entry) for entry in manifest["files"]]
        except (ValueError, KeyError, TypeError):
            return f"{uri}/{_manifest(rank)} is no manifest"
        if found := next(filter(None, damages), None):
            return found
        rank += 1
    return None


def _file_damage(uri: str, path: str, bytes: int, crc32: str) -> str | None:
    filesystem, folder = files.file_system(uri)
    info = filesystem.get_file_info(f"{folder}/{path}")
    if info.type != fs.FileType.File:
        return f"{uri}/{path} is missing"
    if info.size != bytes:
        return f"{uri}/{path} has {info.size:,} bytes, {bytes:,} were written"
    with filesystem.open_input_stream(f"{folder}/{path}") as stream:
        if (found := _checksum(stream)) != crc32:
            return f"{uri}/{path} has the checksum {found}, {crc32} was written"
    return None


def _manifest(rank: int) -> str:
    return f"manifest-{rank}.json"


def _checksum(stream: Any) -> str:
    """crc32 of what is left of a stream, in hex digits."""
    found = 0
    while chunk := stream.read(CHUNK):
        found = zlib.crc32(chunk, found)
    return f"{found:08x}"


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A folder of this machine with the checkpoint's files: its own where the file system is
    local.
    """
    filesystem, path = files.file_system(uri)
    if filesystem.type_name == "local":
        yield Path(path)
        return
    folder = tempfile.mkdtemp()
    try:
        fs.copy_files(path, folder, filesystem, fs.LocalFileSystem())
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
