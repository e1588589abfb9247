"""Arrays in files without a name, for tables that are larger than the memory of a process.

The files lie in the temporary folder (TMPDIR), and are freed with the arrays. Pages that were
written or read are dropped from the process after each batch of rows. They remain in the page cache
of the host until it needs the memory.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from mdsrec.errors import InputError
from mdsrec.files import first_line
from training.data.shared_arrays import Array, Shape

T = TypeVar("T")


class DiskArrays:
    """The arrays of one purpose."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []

    def zeros(self, shape: Shape, dtype: DTypeLike) -> Array:
        """Return zeros in a file. InputError if the disk has no room for all of them."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not num_bytes:
            return np.zeros(shape, dtype)
        try:
            with tempfile.TemporaryFile() as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
                self._maps.append(mmap.mmap(file.fileno(), num_bytes))
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: no room for {num_bytes >> 20:,} MiB of temporary files "
                f"({first_line(error)}): free some, or set TMPDIR to a folder on another disk"
            ) from None
        return np.frombuffer(self._maps[-1], dtype).reshape(shape)

    def drop_pages(self) -> None:
        """Drop the pages of all arrays from this process. Their content stays."""
        for pages in self._maps:
            pages.madvise(mmap.MADV_DONTNEED)

    def dropping(self, parts: Iterator[T]) -> Iterator[T]:
        """Yield the parts, and drop the pages after each."""
        for part in parts:
            yield part
            self.drop_pages()
