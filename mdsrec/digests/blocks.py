"""The CRC-32 of each block of a file, so a reader checks just the blocks that it reads.

A CRC-32 shows every single flipped bit, and all but one in 2^32 other damages of a block.
"""

import zlib
from collections.abc import Iterable
from io import SEEK_CUR, SEEK_END, SEEK_SET

import pyarrow as pa

from mdsrec.errors import InputError

BLOCK_BYTES = 1 << 20
DIGITS = 8  # of a block
READ_BYTES = 8 << 20  # in a check of a whole file

Bytes = bytes | bytearray | memoryview


class BlockDigests:
    """The digests of consecutive bytes that arrive in pieces of any size."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._crc, self._filled = 0, 0  # of the block that is not full

    def update(self, piece: Bytes) -> None:
        """Add the next bytes."""
        left = memoryview(piece).cast("B")
        while len(left):
            part = left[: BLOCK_BYTES - self._filled]
            self._crc = zlib.crc32(part, self._crc)
            self._filled += len(part)
            left = left[len(part) :]
            if self._filled == BLOCK_BYTES:
                self._done.append(f"{self._crc:08x}")
                self._crc, self._filled = 0, 0

    def text(self) -> str:
        """Return DIGITS hex digits for each block; the last block may be short."""
        rest = [f"{self._crc:08x}"] if self._filled else []
        return "".join([*self._done, *rest])


def block_digests(pieces: Iterable[Bytes]) -> str:
    """Return the text of `BlockDigests` of consecutive pieces."""
    digests = BlockDigests()
    for piece in pieces:
        digests.update(piece)
    return digests.text()


def digits_for(size: int) -> int:
    """Return the length of the text of `BlockDigests` for so many bytes."""
    return DIGITS * -(-size // BLOCK_BYTES)


class CheckedFile:
    """A stored file that is read like any other, and whose blocks are checked as they are read.

    `digests` are of the bytes from `start` to the end. What lies before is not read here. `remedy`
    ends the InputError that names a damaged file.
    """

    def __init__(
        self, file: pa.NativeFile, name: str, digests: str, remedy: str, start: int = 0
    ) -> None:
        self._file, self._name, self._digests, self._remedy = file, name, digests, remedy
        self._start, self._position = start, 0
        self._size = file.size() - start
        self._last: tuple[int, memoryview] = (-1, memoryview(b""))  # the block read last
        if digits_for(self._size) != len(digests):
            raise InputError(f"{name}: damaged (its size is not what was written): {remedy}")

    def read_at(self, size: int, offset: int) -> memoryview:
        """Return bytes from `offset` on, fewer at the end of the file."""
        end = min(offset + size, self._size)
        if offset >= end:
            return memoryview(b"")
        first, last = offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        if (first, last) == (self._last[0], self._last[0] + 1):
            blocks = self._last[1]
        else:
            blocks = self._read_blocks(first, last)
        before = first * BLOCK_BYTES
        return blocks[offset - before : end - before]

    def _read_blocks(self, first: int, last: int) -> memoryview:
        begin, end = first * BLOCK_BYTES, min(last * BLOCK_BYTES, self._size)
        blocks = memoryview(self._file.read_at(end - begin, self._start + begin))
        for number in range(first, last):
            place = (number - first) * BLOCK_BYTES
            block = blocks[place : place + BLOCK_BYTES]
            expected = self._digests[number * DIGITS : (number + 1) * DIGITS]
            if f"{zlib.crc32(block):08x}" != expected:
                stop = min((number + 1) * BLOCK_BYTES, self._size)
                raise InputError(
                    f"{self._name}: damaged (bytes {self._start + number * BLOCK_BYTES:,} to "
                    f"{self._start + stop:,} are not what was written): {self._remedy}"
                )
        self._last = (last - 1, blocks[(last - 1 - first) * BLOCK_BYTES :])
        return blocks

    def check(self) -> None:
        """Read the whole file."""
        for offset in range(0, self._size, READ_BYTES):
            self.read_at(READ_BYTES, offset)

    # The methods that pyarrow calls of a Python file.

    closed = False

    def read(self, size: int = -1) -> memoryview:
        found = self.read_at(self._size if size < 0 else size, self._position)
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        base = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self._file.close()
        self.closed = True
