"""A checkpoint is complete, or refused with its damage named, on any storage; a rank that cannot
write one does not make the others wait.
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
from training.checkpoints.manifest import find_damage
from training.checkpoints.store import CheckpointStore, StagingFolder
from training.distributed.control import ControlGroup


def write_one_rank(uri: str, rank: int, world_size: int, write: Callable[[Path], None]) -> None:
    group: Any = SimpleNamespace(rank=rank, world_size=world_size)
    staging = StagingFolder(uri)
    staging.create()
    staging.write_and_publish(group, write)
    staging.remove()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of two ranks, each of which wrote one file of 100 bytes."""

    def write(folder: Path) -> None:
        (folder / "engine").mkdir()
        (folder / "engine" / f"part-{os.urandom(2).hex()}").write_bytes(bytes(100))

    for rank in range(2):
        write_one_rank(str(tmp_path / "c"), rank, 2, write)
    assert find_damage(str(tmp_path / "c")) is None
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(bytes(99)), "has 99 bytes, 100 were written"),
        (lambda file: file.write_bytes(b"1" * 100), "has the checksum"),
        (lambda file: file.unlink(), "is missing"),
        (lambda file: (file.parents[1] / "manifest-1.json").unlink(), "was never complete"),
        (
            lambda file: (file.parents[1] / "manifest-1.json").write_text("{"),
            "manifest-1.json: damaged (",
        ),
    ],
)
def test_the_damage_of_a_checkpoint_is_named(
    checkpoint: Path, damage: Callable[[Path], Any], message: str
) -> None:
    for file in sorted(checkpoint.glob("engine/*"))[1:]:
        damage(file)
    assert message in str(find_damage(str(checkpoint)))


@pytest.mark.parametrize("damaged_rank", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_that_share_the_verification_find_damage_in_any_file(
    checkpoint: Path, damaged_rank: int, world_size: int
) -> None:
    manifest = json.loads((checkpoint / f"manifest-{damaged_rank}.json").read_text())
    file = checkpoint / manifest["files"][0]["path"]
    file.write_bytes(b"1" * 100)
    found = [find_damage(str(checkpoint), rank, world_size) for rank in range(world_size)]
    (damage,) = [each for each in found if each is not None]
    assert str(file) in damage


def test_a_checkpoint_on_remote_storage_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(files, "file_system", lambda uri: (bucket, uri.removeprefix("s3://")))

    def write(folder: Path) -> None:
        (folder / "engine").mkdir()
        (folder / "engine" / "part").write_bytes(b"weights")

    write_one_rank("s3://b/c", 0, 1, write)
    assert find_damage("s3://b/c") is None
    assert files.read_bytes("s3://b/c/engine/part") == b"weights"


def save_with_a_full_disk(folder: str) -> Any:
    """Save twice; in the first save rank 1 cannot create its staging folder.

    Return the results of both saves and the seconds that the first took.
    """
    store = CheckpointStore(folder, ControlGroup(timeout_minutes=1))
    create = tempfile.TemporaryDirectory

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if distributed.get_rank() == 1:
        tempfile.TemporaryDirectory = fail  # type: ignore[assignment, misc]
    started = time.monotonic()
    results = [store.save("a", lambda staging: distributed.barrier())]
    seconds = time.monotonic() - started
    tempfile.TemporaryDirectory = create  # type: ignore[misc]
    results.append(store.save("b", lambda staging: distributed.barrier()))
    return [results, seconds]


def test_a_rank_without_a_staging_folder_does_not_make_the_others_wait(tmp_path: Path) -> None:
    (first, _), (second, seconds) = on_ranks(2, save_with_a_full_disk, str(tmp_path))
    assert first[0] is not None and "No space left" in second[0]
    assert seconds < 30
    assert first[1] is None and second[1] is None
    assert find_damage(str(tmp_path / "checkpoints" / "b")) is None
    assert not (tmp_path / "checkpoints" / "a").exists()
