"""A run's checkpoints, under `<run>/checkpoints`: complete or absent, the newest two.

Every rank writes its files, then a manifest of them with sizes and checksums. A checkpoint stands
once each rank's manifest is there. Its name tells the position, so names sort by age.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from mdsrec import files
from training.checkpoints.manifest import (
    NEVER_COMPLETE,
    Written,
    checksum,
    damage_of,
    manifest_name,
)
from training.distributed.control import JointError, Ranks
from training.lifecycle.stopping import OUT_OF_REACH

log = logging.getLogger("training")


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
        ranks, damaged = self._ranks, False
        for name in ranks.told_by_first(_names(self.uri) if ranks.rank == 0 else []):
            found = damage_of(f"{self.uri}/{name}", ranks.rank, ranks.world_size)
            damage = ranks.told_by_any(found)
            if damage is None:
                self._newest = name
                return name
            if ranks.rank == 0:
                log.warning("checkpoint %s is refused: %s", name, damage)
            damaged |= not damage.endswith(NEVER_COMPLETE)
        if damaged:
            raise JointError(
                f"{self.uri}: every checkpoint is damaged: train the run anew with --fresh"
            )
        return None

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
            with file.open("rb") as stream:
                written = Written(name, file.stat().st_size, checksum(stream))
            listed.append(written._asdict())
            _move(file, f"{self._uri}/{name}")
        manifest = {"world_size": ranks.world_size, "files": listed}
        files.write_json(f"{self._uri}/{manifest_name(ranks.rank)}", manifest)

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
