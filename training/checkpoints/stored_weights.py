"""The best weights of a run as they are stored, read a piece at a time."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mdsrec.digests.blocks import Bytes
from mdsrec.errors import InputError
from mdsrec.files import first_line
from training.checkpoints.tensor_file import ITEMS, REMEDY, TensorFile
from training.checkpoints.weights import PARTS

ROWS = 1 << 14  # of a file, read at a time

log = logging.getLogger("training")


class StoredWeights:
    """Named tensors in one file, or in one file and in files of rows of items beside it."""

    def __init__(self, uri: str) -> None:
        """Read the headers. InputError if a file is absent or damaged."""
        self.uri = uri
        self._main = main = _open(uri)
        if not main.is_checked:
            log.info("%s: written by an older version, without digests: not checked", uri)
        self.metadata = main.metadata
        folder = uri.rpartition("/")[0]
        names = json.loads(self.metadata.get(PARTS, "[]"))
        parts = [_open(f"{folder}/{name}") for name in names]
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
        return {name: self.tensor(name) for name in self._files}

    def fingerprint(self) -> str:
        """Return a fingerprint: that of a model with these weights, by `weights_fingerprint`.

        Rows of items in another order than that of items have another fingerprint.
        """
        digest = hashlib.sha256()
        for file in self._order or ():
            for piece in file.pieces(ITEMS):
                digest.update(piece)
        for name, shape in self.shapes.items():
            digest.update(f"{name} {shape} {self.dtype(name)}".encode())
            for piece in self._pieces(name):
                digest.update(piece)
        return digest.hexdigest()[:16]

    def mark(self) -> str:
        """Return what tells these files from those of other weights, usually from a header alone.

        The header of a file without digests says nothing of its content: there it is the
        fingerprint.
        """
        return self._main.mark if self._main.is_checked else self.fingerprint()

    def tensor(self, name: str) -> Tensor:
        """Read a tensor."""
        stored = self._files[name]
        if self._order is None or stored is not self._order:
            return stored[0].tensor(name) if len(stored) == 1 else self._joined(name)
        tensor = torch.empty(self._shape(name), dtype=self.dtype(name))
        for numbers, rows in self.blocks(name):
            tensor[numbers] = rows
        return tensor

    def blocks(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield numbers of rows, those of items where they are stored in another order, and rows.

        All rows come once, in the order in which they are stored, ROWS at a time.
        """
        start = 0  # first row of a file
        for file in self._files[name]:
            num_rows = file.shape(name)[0]
            for first in range(0, num_rows, ROWS):
                last = min(first + ROWS, num_rows)
                numbers = torch.arange(start + first, start + last)
                if self._order is self._files[name]:
                    numbers = file.elements(ITEMS, first, last).long()
                yield numbers, _rows_between(file, name, first, last)
            start += num_rows

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Read the rows of items first <= item < last. InputError if there are fewer.

        Where rows are stored in another order, others are read between them.
        """
        num_rows, *shape = self._shape(name)
        if last > num_rows:
            raise InputError(
                f"{self.uri}: {name} has {num_rows:,} rows, the data set has more items"
            )
        found = torch.empty(last - first, *shape, dtype=self.dtype(name))
        start = 0  # first row of a file
        for file in self._files[name]:
            numbers = torch.arange(start, start + file.shape(name)[0])
            if self._order is self._files[name]:
                numbers = file.tensor(ITEMS).long()
            start += len(numbers)
            for part in torch.split(torch.arange(len(numbers)), ROWS):
                inside = part[(numbers[part] >= first) & (numbers[part] < last)]
                if len(inside):
                    read = _rows_between(file, name, int(inside[0]), int(inside[-1]) + 1)
                    found[numbers[inside] - first] = read[inside - inside[0]]
        return found

    def _joined(self, name: str) -> Tensor:
        tensor, first = torch.empty(self._shape(name), dtype=self.dtype(name)), 0
        for file in self._files[name]:
            rows = file.tensor(name)
            tensor[first : first + len(rows)] = rows
            first += len(rows)
        return tensor

    def _pieces(self, name: str) -> Iterator[Bytes]:
        for file in self._files[name]:
            yield from file.pieces(name)

    def _shape(self, name: str) -> tuple[int, ...]:
        shapes = [file.shape(name) for file in self._files[name]]
        if len(shapes) == 1:
            return shapes[0]
        return sum(shape[0] for shape in shapes), *shapes[0][1:]

    def dtype(self, name: str) -> torch.dtype:
        return self._files[name][0].dtype(name)


def _open(uri: str) -> TensorFile:
    try:
        return TensorFile.open(uri)
    except OSError as error:
        raise InputError(f"{uri}: {first_line(error)}: {REMEDY}") from None


def _rows_between(file: TensorFile, name: str, first: int, last: int) -> Tensor:
    """Read rows of a file, first <= row < last."""
    shape = file.shape(name)[1:]
    size = math.prod(shape)
    return file.elements(name, first * size, last * size).view(-1, *shape)
