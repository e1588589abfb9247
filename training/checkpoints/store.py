"""The newest two checkpoints of a run, under `<run>/checkpoints`; each is complete or absent.

Every rank writes its files, then a manifest of them. A checkpoint is complete once the manifest of
every rank exists. Its name holds the position in the training, so names sort by age.
"""

import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyarrow import fs

from mdsrec import files
from training.checkpoints.manifest import (
    INCOMPLETE,
    FileRecord,
    checksum,
    find_damage,
    manifest_name,
)
from training.distributed.control import CollectiveInputError, ControlGroup

log = logging.getLogger("training")


class CheckpointStore:
    """The checkpoints of one run. Its methods are collective."""

    def __init__(self, run: str, group: ControlGroup) -> None:
        self.uri = f"{run}/checkpoints"
        self._group = group
        self._newest: str | None = None  # of those that this training has read or written

    def find_newest(self) -> str | None:
        """Return the name of the newest intact checkpoint; None if none was ever complete.

        The ranks verify a checkpoint together, each a share of its files. A damaged one is named in
        the log and skipped. CollectiveInputError if there are only damaged ones.
        """
        group, any_damaged = self._group, False
        found = checkpoint_names(self.uri) if group.rank == 0 else []
        for name in group.broadcast_from_first(found):
            damage = group.first_message(
                find_damage(files.join(self.uri, name), group.rank, group.world_size)
            )
            if damage is None:
                self._newest = name
                return name
            if group.rank == 0:
                log.warning("checkpoint %s is skipped: %s", name, damage)
            any_damaged |= not damage.endswith(INCOMPLETE)
        if any_damaged:
            raise CollectiveInputError(
                f"{self.uri}: every checkpoint is damaged: train from the start with --fresh"
            )
        return None

    def save(self, name: str, write: Callable[[Path], None]) -> str | None:
        """Save a checkpoint: every rank calls `write` with its staging folder.

        Return None, or the reason if any rank could not write. In that case the former checkpoints
        are unchanged.
        """
        if name == self._newest:
            return None
        group, uri = self._group, f"{self.uri}/{name}"
        staging = StagingFolder(uri)
        error = None
        if group.rank == 0:  # an earlier attempt may have left files there
            error = storage_error(lambda: files.delete_folder(uri))
        if group.all(error is None):
            error = storage_error(staging.create)
        # No rank may be missing in `write`, which is collective.
        if group.all(error is None):
            error = storage_error(lambda: staging.write_and_publish(group, write))
        staging.remove()
        if error is not None:
            log.warning("checkpoint %s: rank %d: %s", name, group.rank, error)
        if not group.all(error is None):
            if group.rank == 0:
                storage_error(lambda: files.delete_folder(uri))
            return error or "another worker could not write its part"
        former, self._newest = self._newest, name
        if group.rank == 0:
            storage_error(lambda: _delete_all_but(self.uri, {former, name}))
        return None


class StagingFolder:
    """A temporary folder of one rank, whose files then move below `uri`.

    It lies in the checkpoint's own folder if that is local, so that a move copies nothing.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def create(self) -> None:
        filesystem, path = files.file_system(self._uri)
        filesystem.create_dir(path, recursive=True)
        parent = path if filesystem.type_name == "local" else None
        self._folder = tempfile.TemporaryDirectory(prefix=".rank-", dir=parent)

    def write_and_publish(self, group: ControlGroup, write: Callable[[Path], None]) -> None:
        """Call `write` with the folder, move its files to their place, then write the manifest."""
        assert self._folder is not None
        folder = Path(self._folder.name)
        write(folder)
        records = []
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = file.relative_to(folder).as_posix()
            with file.open("rb") as stream:
                record = FileRecord(name, file.stat().st_size, checksum(stream))
            records.append(record._asdict())
            _move(file, f"{self._uri}/{name}")
        manifest = {"world_size": group.world_size, "files": records}
        files.write_json(f"{self._uri}/{manifest_name(group.rank)}", manifest)

    def remove(self) -> None:
        if self._folder is not None:
            with suppress(OSError):
                self._folder.cleanup()


def storage_error(action: Callable[[], None]) -> str | None:
    """Run the action and return the first line of its storage error, or None if it succeeds."""
    try:
        action()
    except files.STORAGE_ERRORS as error:
        return files.first_line(error)
    return None


def checkpoint_names(uri: str) -> list[str]:
    """Return the names of all checkpoints, the newest first."""
    filesystem, path = files.file_system(uri)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    folders = (info.base_name for info in infos if info.type == fs.FileType.Directory)
    return sorted(folders, reverse=True)


def _delete_all_but(uri: str, kept: set[str | None]) -> None:
    for name in checkpoint_names(uri):
        if name not in kept:
            files.delete_folder(files.join(uri, name))


def _move(file: Path, uri: str) -> None:
    filesystem, target = files.file_system(uri)
    filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
    if filesystem.type_name == "local":
        file.replace(target)
    else:
        fs.copy_files(str(file), target, fs.LocalFileSystem(), filesystem)
