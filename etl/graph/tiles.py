"""Tiles of the product N(O) E (Eq. 3): how tasks divide its rows and columns, and entries of O.

A tile is a span of rows and a slice of columns. A task keeps the float64 sums of its tile in memory
and streams its slice of E past them, so E is read once per span, and O once per slice. Spans are as
long as the memory of a task allows. Where the product needs many tiles, both numbers grow with the
square root of theirs, as that reads the fewest bytes.

Files hold ranges of items that depend on the data only. A span consists of whole files, so the
files do not depend on the tiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from etl.spark.blocks import block_ranges
from mdsrec.arrays import Ints

SPAN_BYTES = 256 << 20  # of the float64 sums of a file's rows, or of their entries of O
ENTRY_BYTES = 48  # memory of an entry of O while it is sorted
SUMS_SHARE = 0.5  # of the memory of a task; blocks of E and of O take the rest
PIECE = 1 << 20  # entries of a block that are sent as one value; those of a row stay together
BATCH_BYTES = 64 << 20
ENTRY = np.dtype([("item", np.int32), ("other", np.int32), ("score", np.float64)])
PACKED_BYTES = ENTRY.itemsize // 4  # of an entry that `pack` has packed
ITEMS = ("item", "other")
CODEC = pa.Codec("zstd", compression_level=1)
PACKED = "span int, block int, entries binary"

Entries = npt.NDArray[np.void]
Range = tuple[int, int]


@dataclass(frozen=True)
class Tiles:
    """Spans of rows and slices of columns: tile t has span t // s and slice t % s of s slices."""

    files: tuple[Range, ...]  # the items of each file
    files_per_span: int
    slices: tuple[Range, ...]

    def __len__(self) -> int:
        return self.num_spans * len(self.slices)

    @property
    def num_spans(self) -> int:
        return -(-len(self.files) // self.files_per_span)

    def files_of(self, span: int) -> range:
        """Return the numbers of the files of a span."""
        first = span * self.files_per_span
        return range(first, min(first + self.files_per_span, len(self.files)))

    def items_of(self, span: int) -> Range:
        """Return the range of items of a span."""
        numbers = self.files_of(span)
        return self.files[numbers[0]][0], self.files[numbers[-1]][1]


def plan_tiles(num_items: int, width: int, num_entries: int, memory: int, num_cores: int) -> Tiles:
    """Return the tiles of a product by tasks with `memory` bytes that read the fewest bytes.

    `width` is that of E, `num_entries` counts those of O. There is a tile for every core, unless
    there are fewer files.
    """
    file_span = span_size(width, num_entries, num_items)
    num_files = -(-num_items // file_span)

    def files_per_span(num_slices: int) -> int:
        by_memory = int(memory * SUMS_SHARE) // (8 * file_span * (-(-width // num_slices) + 1))
        by_cores = -(-num_files * num_slices // num_cores)
        return max(1, min(by_memory, by_cores, num_files))

    def bytes_read(num_slices: int) -> int:
        num_spans = -(-num_files // files_per_span(num_slices))
        rewritten = 0 if num_slices == 1 else 4  # slices of E and the product: written and read
        size_of_E = 4 * width * num_items
        return (num_spans + rewritten) * size_of_E + num_slices * PACKED_BYTES * num_entries

    num_slices = min(range(1, width + 1), key=bytes_read, default=1)
    slices = tuple(block_ranges(width, -(-width // num_slices))) if width else ((0, 0),)
    files = tuple(block_ranges(num_items, file_span))
    return Tiles(files, files_per_span(num_slices), slices)


def span_size(width: int, num_entries: int, num_items: int) -> int:
    """Return how many items fill SPAN_BYTES, by their sums or their rows of O if these are larger.

    `num_entries` counts those of O.
    """
    bytes_per_item = max(8 * width, ENTRY_BYTES * num_entries // num_items)
    return max(1, SPAN_BYTES // bytes_per_item) if bytes_per_item else num_items


def pack_entries(table: pa.Table, block_size: int, span: int) -> Iterator[pa.RecordBatch]:
    """Yield rows of O, sorted by both items, as PACKED: in pieces, by blocks of their columns."""
    entries = np.empty(table.num_rows, ENTRY)
    for name in table.column_names:
        entries[name] = table.column(name).to_numpy()
    block = entries["other"] // block_size
    order = np.argsort(block, kind="stable")
    rows: list[tuple[int, bytes]] = []
    size = 0
    for number, piece in _pieces(entries[order], block[order]):
        rows.append((number, pack(piece)))
        size += piece.nbytes
        if size >= BATCH_BYTES:
            yield _packed(span, rows)
            rows, size = [], 0
    yield _packed(span, rows)


def pack(entries: Entries) -> bytes:
    """Return entries in a quarter of their size: by columns, the items as differences."""
    differences = (np.diff(entries[name], prepend=0).astype(np.int32) for name in ITEMS)
    columns = [*differences, np.ascontiguousarray(entries["score"])]
    packed = CODEC.compress(b"".join(column.tobytes() for column in columns), asbytes=True)
    return len(entries).to_bytes(8) + bytes(packed)


def unpack(packed: bytes) -> Entries:
    """Return the entries that `pack` has packed."""
    entries = np.empty(int.from_bytes(packed[:8]), ENTRY)
    size = ENTRY.itemsize * len(entries)
    columns = CODEC.decompress(memoryview(packed)[8:], decompressed_size=size, asbytes=True)
    for column, name in enumerate(ITEMS):
        differences = np.frombuffer(columns, np.int32, len(entries), 4 * column * len(entries))
        entries[name] = np.cumsum(differences)
    entries["score"] = np.frombuffer(columns, np.float64, offset=8 * len(entries))
    return entries


def _pieces(entries: Entries, block: Ints) -> Iterator[tuple[int, Entries]]:
    """Divide entries, sorted by block and then by item, into pieces of whole rows of a block."""
    begins_block = np.diff(block, prepend=-1) != 0
    rows = np.flatnonzero(begins_block | (np.diff(entries["item"], prepend=-1) != 0))
    begins_piece = begins_block[rows] | (np.diff(rows // PIECE, prepend=-1) != 0)
    for start, stop in pairwise([*rows[begins_piece].tolist(), len(entries)]):
        yield int(block[start]), entries[start:stop]


def _packed(span: int, rows: list[tuple[int, bytes]]) -> pa.RecordBatch:
    columns = [
        pa.array([span] * len(rows), pa.int32()),
        pa.array([block for block, _ in rows], pa.int32()),
        pa.array([entries for _, entries in rows], pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, ["span", "block", "entries"])
