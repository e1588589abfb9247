"""A checkpoint is whole or refused by what is wrong with it, on any storage, and a rank that cannot
write one keeps no other waiting.
"""

import errno
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gloo import on_ranks
from pyarrow import fs
from torch import distributed

from mdsrec import files
from training.checkpoints.manifest import damage_of
from training.checkpoints.store import Checkpoints, OwnFolder, local_copy
from training.distributed.control import Ranks


def write_part(uri: str, ranks: Any, write: Callable[[Path], None]) -> None:
    own = OwnFolder(uri)
    own.make()
    own.fill(ranks, write)
    own.remove()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A checkpoint of two ranks."""

    def write(folder: Path) -> None:
        (folder / "engine").mkdir()
        (folder / "engine" / f"part-{os.urandom(2).hex()}").write_bytes(bytes(100))

    for rank in range(2):
        write_part(str(tmp_path / "c"), SimpleNamespace(rank=rank, world_size=2), write)
    assert damage_of(str(tmp_path / "c")) is None
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda file: file.write_bytes(bytes(99)), "has 99 bytes, 100 were written"),
        (lambda file: file.write_bytes(b"1" * 100), "has the checksum"),
        (lambda file: file.unlink(), "is missing"),
        (lambda file: (file.parents[1] / "manifest-1.json").unlink(), "was never complete"),
        (lambda file: (file.parents[1] / "manifest-1.json").write_text("{"), "is no manifest"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_named(
    written: Path, action: Callable[[Path], Any], said: str
) -> None:
    for file in sorted(written.glob("engine/*"))[1:]:
        action(file)
    assert said in str(damage_of(str(written)))


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_that_share_the_look_find_what_is_wrong_with_any_part(
    written: Path, part: int, world_size: int
) -> None:
    manifest = json.loads((written / f"manifest-{part}.json").read_text())
    file = written / manifest["files"][0]["path"]
    file.write_bytes(b"1" * 100)
    looks = [damage_of(str(written), rank, world_size) for rank in range(world_size)]
    (found,) = [damage for damage in looks if damage is not None]
    assert str(file) in found


def test_a_checkpoint_on_storage_that_is_no_local_folder_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(files, "file_system", lambda uri: (bucket, uri.removeprefix("s3://")))

    def write(folder: Path) -> None:
        (folder / "engine").mkdir()
        (folder / "engine" / "part").write_bytes(b"weights")

    write_part("s3://b/c", SimpleNamespace(rank=0, world_size=1), write)
    assert damage_of("s3://b/c") is None
    with local_copy("s3://b/c") as folder:
        assert (folder / "engine" / "part").read_bytes() == b"weights"
        assert not folder.is_relative_to(tmp_path)
    assert not folder.exists()


def without_room(folder: str) -> Any:
    """What two ranks are told, and in what time, where the second cannot make its own folder."""
    checkpoints = Checkpoints(folder, Ranks(timeout_minutes=1))
    make = tempfile.TemporaryDirectory

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if distributed.get_rank() == 1:
        tempfile.TemporaryDirectory = full  # type: ignore[assignment, misc]
    began = time.monotonic()
    told = [checkpoints.save("a", lambda own: distributed.barrier())]
    seconds = time.monotonic() - began
    tempfile.TemporaryDirectory = make  # type: ignore[misc]
    told.append(checkpoints.save("b", lambda own: distributed.barrier()))
    return [told, seconds]


def test_a_rank_without_a_folder_keeps_no_other_waiting(tmp_path: Path) -> None:
    (first, _), (second, seconds) = on_ranks(2, without_room, str(tmp_path))
    assert first[0] is not None and "No space left" in second[0]
    assert seconds < 30
    assert first[1] is None and second[1] is None
    assert damage_of(str(tmp_path / "checkpoints" / "b")) is None
    assert not (tmp_path / "checkpoints" / "a").exists()
