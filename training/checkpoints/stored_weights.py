"""The best weights of a run as they are stored, read a piece at a time."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mdsrec import files
from training.checkpoints.tensor_file import ITEMS, METADATA, read_header
from training.checkpoints.weights import PARTS

READ_BYTES = 16 << 20
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _File:
    """A safetensors file: where each tensor is in it."""

    uri: str
    header: Mapping[str, Any]
    start: int  # of the tensors, behind the header

    @classmethod
    def open(cls, uri: str) -> Self:
        return cls(uri, *read_header(uri))

    @property
    def tensors(self) -> list[str]:
        return [name for name in self.header if name != METADATA]

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a tensor."""
        filesystem, path = files.file_system(self.uri)
        first, last = (self.start + offset for offset in self.header[name]["data_offsets"])
        with filesystem.open_input_file(path) as file:
            for offset in range(first, last, READ_BYTES):
                yield file.read_at(min(READ_BYTES, last - offset), offset)


class StoredWeights:
    """Named tensors in one file, or in one file and in files of rows of items beside it."""

    def __init__(self, uri: str) -> None:
        """Read the headers. OSError if a file is absent."""
        main = _File.open(uri)
        self.metadata: dict[str, str] = main.header.get(METADATA, {})
        folder = uri.rpartition("/")[0]
        names = json.loads(self.metadata.get(PARTS, "[]"))
        parts = [_File.open(f"{folder}/{name}") for name in names]
        self._files = {name: [main] for name in main.tensors}
        for name in parts[0].tensors if parts else ():
            self._files[name] = parts
        self._order = self._files.pop(ITEMS, None)

    @property
    def has_order(self) -> bool:
        """Return whether rows of items are stored in another order than that of items."""
        return self._order is not None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor by name, in order of names."""
        return {name: self._shape(name) for name in sorted(self._files)}

    def tensors(self) -> dict[str, Tensor]:
        """Read every tensor."""
        return {name: self._tensor(name) for name in self._files}

    def fingerprint(self) -> str:
        """Return a fingerprint: that of a model with these weights, by `weights_fingerprint`.

        Rows of items in another order than that of items have another fingerprint.
        """
        digest = hashlib.sha256()
        for file in self._order or ():
            for piece in file.pieces(ITEMS):
                digest.update(piece)
        for name, shape in self.shapes.items():
            digest.update(f"{name} {shape} {self._dtype(name)}".encode())
            for piece in self._pieces(name):
                digest.update(piece)
        return digest.hexdigest()[:16]

    def _tensor(self, name: str) -> Tensor:
        tensor = torch.empty(self._shape(name), dtype=self._dtype(name))
        if self._order is None or self._files[name] is not self._order:
            _fill(tensor, self._pieces(name))
            return tensor
        for file in self._order:
            items = torch.empty(file.header[ITEMS]["shape"], dtype=torch.int32)
            rows = tensor.new_empty(file.header[name]["shape"])
            _fill(items, file.pieces(ITEMS))
            _fill(rows, file.pieces(name))
            tensor[items.long()] = rows
        return tensor

    def _pieces(self, name: str) -> Iterator[bytes]:
        for file in self._files[name]:
            yield from file.pieces(name)

    def _shape(self, name: str) -> tuple[int, ...]:
        shapes = [file.header[name]["shape"] for file in self._files[name]]
        rows = shapes[0][:1] if len(shapes) == 1 else [sum(shape[0] for shape in shapes)]
        return tuple(rows + shapes[0][1:])

    def _dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._files[name][0].header[name]["dtype"]]


def _fill(tensor: Tensor, pieces: Iterator[bytes]) -> None:
    """Set the elements of a tensor from their bytes."""
    room, done = tensor.view(-1).view(torch.uint8).numpy(), 0
    for piece in pieces:
        room[done : done + len(piece)] = memoryview(piece)
        done += len(piece)
