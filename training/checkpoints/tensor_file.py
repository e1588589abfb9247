"""Safetensors files on any storage, written one tensor at a time and read a piece at a time.

So a file is never whole in memory, and what is not needed is not read.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdsrec import files

METADATA = "__metadata__"  # key of the strings in a header
READ_BYTES = 16 << 20
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
}
ARRAY_TYPES = {"<i8": "I64", "<f8": "F64", "<f4": "F32", "<i4": "I32"}  # in the order of a file
ITEMS = "items"  # the items whose rows are in a file, where these are not in the order of items


def write_tensors(
    stream: BinaryIO,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors, given in the order of `shapes`, as a safetensors file.

    All are float32 but that of ITEMS, which is int32.
    """
    header: dict[str, object] = {METADATA: dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        dtype = "I32" if name == ITEMS else "F32"
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors start at a multiple of 8 bytes
    stream.write(len(encoded).to_bytes(8, "little"))
    stream.write(encoded)
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        assert tensor.dtype == (torch.int32 if name == ITEMS else torch.float32)
        assert tuple(tensor.shape) == shape
        stream.write(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def write_arrays(
    stream: BinaryIO,
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    after_piece: Callable[[], None],
) -> None:
    """Write the bytes of `safetensors.numpy.save`, a piece of an array at a time.

    `after_piece` is called after each.
    """
    named = sorted(
        arrays.items(), key=lambda item: (list(ARRAY_TYPES).index(item[1].dtype.str), item[0])
    )
    header: dict[str, object] = {METADATA: dict(metadata)}
    end = 0
    for name, array in named:
        start, end = end, end + array.nbytes
        kind = ARRAY_TYPES[array.dtype.str]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    stream.write(len(encoded).to_bytes(8, "little"))
    stream.write(encoded)
    for _, array in named:
        content = array.reshape(-1).view(np.uint8)
        for first in range(0, len(content), READ_BYTES):
            stream.write(content[first : first + READ_BYTES].data)
            after_piece()


def file_metadata(content: bytes) -> dict[str, str]:
    """Return the string metadata in the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get(METADATA, {})


@dataclass(frozen=True)
class TensorFile:
    """A stored file: where each tensor is in it."""

    uri: str
    header: Mapping[str, Any]
    start: int  # of the tensors, behind the header

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the header. OSError if the file is absent or torn."""
        filesystem, path = files.file_system(uri)
        with filesystem.open_input_file(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > file.size():
                raise OSError(f"{uri}: torn")
            header = json.loads(file.read(length))
            ends = [part["data_offsets"][1] for key, part in header.items() if key != METADATA]
            if file.size() != 8 + length + max(ends, default=0):
                raise OSError(f"{uri}: torn")
            return cls(uri, header, 8 + length)

    @property
    def tensors(self) -> list[str]:
        return [name for name in self.header if name != METADATA]

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = self.header.get(METADATA, {})
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.header[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self.header[name]["dtype"]]

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a tensor."""
        yield from self._read(*self.header[name]["data_offsets"])

    def elements(self, name: str, first: int, last: int) -> Tensor:
        """Return elements first <= element < last of the flat tensor; only they are read."""
        found = torch.empty(last - first, dtype=self.dtype(name))
        size, start = found.element_size(), self.header[name]["data_offsets"][0]
        room, done = found.view(torch.uint8).numpy(), 0
        for piece in self._read(start + first * size, start + last * size):
            room[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        return found

    def tensor(self, name: str) -> Tensor:
        """Return a whole tensor."""
        shape = self.shape(name)
        return self.elements(name, 0, math.prod(shape)).view(shape)

    def _read(self, first: int, last: int) -> Iterator[bytes]:
        filesystem, path = files.file_system(self.uri)
        with filesystem.open_input_file(path) as file:
            for offset in range(first, last, READ_BYTES):
                yield file.read_at(min(READ_BYTES, last - offset), self.start + offset)
