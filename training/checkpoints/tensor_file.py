"""Safetensors files on any storage, written one tensor at a time and read a piece at a time.

So a file is never whole in memory, and what is not needed is not read. A file may hold digests of
its own bytes: of the blocks of its tensors, and of its header. Then what is read is checked.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdsrec import files
from mdsrec.digests.blocks import Bytes, CheckedFile, block_digests, digits_for
from mdsrec.errors import InputError

METADATA = "__metadata__"  # key of the strings in a header
READ_BYTES = 16 << 20
BLOCKS = "blocks"  # in the metadata: digests of the blocks of the tensors
HEADER = "header"  # in the metadata: CRC-32 of the header, whose place holds NO_CRC meanwhile
NO_CRC = "0" * 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
}
ARRAY_TYPES = {"<i8": "I64", "<f8": "F64", "<f4": "F32", "<i4": "I32"}  # in the order of a file
ITEMS = "items"  # the items whose rows are in a file, where these are not in the order of items
REMEDY = "restore it from a copy, or train the run again with --fresh"


def write_tensors(
    stream: BinaryIO,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors, given in the order of `shapes`, as a safetensors file.

    All are float32 but that of ITEMS, which is int32.
    """
    stream.write(_header(shapes, metadata))
    for piece in _bytes_of(shapes, tensors):
        stream.write(piece)


def write_checked(
    stream: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors as `write_tensors` does, with digests; they are read twice."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    digests = block_digests(_bytes_of(shapes, tensors.values()))
    stream.write(_checked_header(shapes, metadata, digests))
    for piece in _bytes_of(shapes, tensors.values()):
        stream.write(piece)


def checked_content(
    shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> memoryview:
    """Return the content of a file of tensors with digests; each tensor is needed once."""
    size = sum(4 * math.prod(shape) for shape in shapes.values())
    done = len(_checked_header(shapes, metadata, "0" * digits_for(size)))
    content, start = memoryview(bytearray(done + size)), done
    for piece in _bytes_of(shapes, tensors):
        content[done : done + len(piece)] = piece
        done += len(piece)
    content[:start] = _checked_header(shapes, metadata, block_digests([content[start:]]))
    return content


def _bytes_of(
    shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor]
) -> Iterator[memoryview]:
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        assert tensor.dtype == (torch.int32 if name == ITEMS else torch.float32)
        assert tuple(tensor.shape) == shape
        content = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data
        for first in range(0, len(content), READ_BYTES):
            yield content[first : first + READ_BYTES]


def _checked_header(
    shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], digests: str
) -> bytes:
    header = _header(shapes, {**metadata, BLOCKS: digests, HEADER: NO_CRC})
    return _with_crc(header, f"{zlib.crc32(header):08x}")


def _with_crc(header: bytes, crc: str) -> bytes:
    """Return a header with another CRC in its place."""
    mark = f'"{HEADER}": "'.encode()
    before, found, after = header.partition(mark)
    return before + found + crc.encode() + after[len(NO_CRC) :] if found else header


def _header(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes before the tensors."""
    header: dict[str, object] = {METADATA: dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        dtype = "I32" if name == ITEMS else "F32"
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors start at a multiple of 8 bytes
    return len(encoded).to_bytes(8, "little") + encoded


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
        """Read the header. OSError if the file is absent or torn, InputError if it is damaged."""
        filesystem, path = files.file_system(uri)
        with filesystem.open_input_file(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > file.size():
                raise OSError(f"{uri}: torn")
            content = file.read_at(8 + length, 0)
            try:
                header = json.loads(content[8:])
                ends = [part["data_offsets"][1] for key, part in header.items() if key != METADATA]
                _check_header(content, header.get(METADATA, {}))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{uri}: damaged ({files.first_line(error)}): {REMEDY}") from None
            if file.size() != 8 + length + max(ends, default=0):
                raise OSError(f"{uri}: torn")
            return cls(uri, header, 8 + length)

    @property
    def is_checked(self) -> bool:
        """Return whether the file holds digests of its bytes."""
        return BLOCKS in self.metadata

    @property
    def mark(self) -> str:
        """Return 16 hex digits of the SHA-256 of the header, where the digests of the rest are."""
        return hashlib.sha256(json.dumps(self.header).encode()).hexdigest()[:16]

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

    def pieces(self, name: str) -> Iterator[Bytes]:
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

    def _read(self, first: int, last: int) -> Iterator[Bytes]:
        filesystem, path = files.file_system(self.uri)
        with filesystem.open_input_file(path) as file:
            digests = self.metadata.get(BLOCKS)
            checked = digests and CheckedFile(file, self.uri, digests, REMEDY, self.start)
            for offset in range(first, last, READ_BYTES):
                size = min(READ_BYTES, last - offset)
                if checked:
                    yield checked.read_at(size, offset)
                else:
                    yield file.read_at(size, self.start + offset)


def _check_header(content: bytes, metadata: Mapping[str, str]) -> None:
    """Raise ValueError if the bytes of a header do not have the CRC in it.

    A header of digests holds both keys, so no single bit hides that it does.
    """
    if BLOCKS not in metadata and HEADER not in metadata:
        return
    crc = zlib.crc32(_with_crc(content, NO_CRC))
    if metadata.get(HEADER) != f"{crc:08x}":
        raise ValueError("its header is not what was written")
