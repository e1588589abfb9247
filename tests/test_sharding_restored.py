"""What the ranks read from storage when they restore the item table: each byte once, together."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from gloo import on_ranks
from torch import distributed

from training.checkpoints.owned_rows import OwnedRows
from training.checkpoints.stored_parts import STARTS, StoredParts
from training.checkpoints.tensor_file import ITEMS, TensorFile, write_tensors
from training.data.item_order import ItemOrder
from training.sharding.owners import owners_of
from training.sharding.ownership import Shards

X, D, WRITERS = 5000, 16, 2
KEYS = ("weights", "first moment", "second moment")
ORDERS = {
    "items": None,
    "places": np.random.default_rng(0).permutation(X).astype(np.int32),
    "other places": np.random.default_rng(1).permutation(X).astype(np.int32),
}
FORMS = [  # orders in which a checkpoint is written and read
    ("items", "items"),
    ("items", "places"),
    ("places", "places"),
    ("places", "other places"),
]


def value(key: str, items: np.ndarray) -> torch.Tensor:
    """Return what the rows of the items hold, flat: number of the tensor, item and column."""
    rows = KEYS.index(key) * X * D + items[:, None] * D + np.arange(D)
    return torch.from_numpy(rows.astype(np.float32)).flatten()


def write_checkpoint(folder: Path, place_of: np.ndarray | None) -> None:
    """Write the files of WRITERS ranks, each with the rows of its own items."""
    items = np.arange(X, dtype=np.int32) if place_of is None else np.argsort(place_of)
    folder.mkdir()
    for rank in range(WRITERS):
        shards = Shards(X, WRITERS, rank)
        own = items[shards.first : shards.last]
        tensors = {key: value(key, own) for key in KEYS}
        if place_of is not None:
            tensors[ITEMS] = torch.from_numpy(own.astype(np.int32))
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        starts = json.dumps(dict.fromkeys(KEYS, shards.first * D))
        with (folder / f"{rank}.safetensors").open("wb") as stream:
            write_tensors(stream, shapes, tensors.values(), {STARTS: starts})


@contextmanager
def counted_bytes(counts: list[int]) -> Iterator[None]:
    """Append the bytes of each piece that is read from a file, and those of its header."""
    read, open_file = TensorFile._read, TensorFile.open.__func__  # type: ignore[attr-defined]

    def counted(file: TensorFile, first: int, last: int) -> Iterator[bytes]:
        for piece in read(file, first, last):
            counts.append(len(piece))
            yield piece

    def opened(kind: type[TensorFile], uri: str) -> TensorFile:
        file: TensorFile = open_file(kind, uri)
        counts.append(file.start)
        return file

    TensorFile._read, TensorFile.open = counted, classmethod(opened)  # type: ignore
    try:
        yield
    finally:
        TensorFile._read, TensorFile.open = read, classmethod(open_file)  # type: ignore


def restore_all(folder: str) -> list[int]:
    """Restore from each checkpoint -> the bytes that all ranks read of it."""
    return [restore(f"{folder}/{written}", read) for written, read in FORMS]


def restore(folder: str, order: str) -> int:
    """Restore the own rows, check them, and return the bytes that all ranks read."""
    owners, counts = owners_of(X, 5, ItemOrder(ORDERS[order])), []
    with counted_bytes(counts):
        files = [TensorFile.open(f"{folder}/{rank}.safetensors") for rank in range(WRITERS)]
        owned = OwnedRows(StoredParts(files), owners)
        found = {key: torch.empty(owners.shards.num_own * D) for key in KEYS}
        for key, rows in found.items():
            owned.read(key, rows)
    for key, rows in found.items():
        assert torch.equal(rows, value(key, owners.items))
    num_bytes = torch.tensor(sum(counts))
    distributed.all_reduce(num_bytes)
    return int(num_bytes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for written in ("items", "places"):
        write_checkpoint(folder / written, ORDERS[written])
    return folder


@pytest.mark.parametrize("readers", [1, 2, 3, 4])
def test_a_restore_reads_the_item_table_and_its_moments_once_in_all(folder, readers):
    [in_all, *_] = on_ranks(readers, restore_all, str(folder))
    for form, num_bytes in zip(FORMS, in_all, strict=True):
        assert 12 * X * D <= num_bytes <= 1.1 * 12 * X * D, form
