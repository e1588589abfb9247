"""Files of vectors that a user brings, as blocks: Parquet, .npy, and the publisher's binary image
features.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy

from etl.catalogue.raw import open_stream, raw_files
from etl.features.vector_blocks import Piece
from etl.spark.spans import block_size
from mdsrec.errors import InputError
from mdsrec.files import file_system, first_line

BATCH = 1024  # rows of Parquet that are worked on together
RECORD = np.dtype([("asin", "S10"), ("vector", "<f4", 4096)])  # of the publisher's image features
RECORDS = block_size(4096)  # in a block


@dataclass(frozen=True)
class ParquetVectors:
    """Columns asin and vector; a block is a row group."""

    groups: tuple[tuple[str, int], ...]  # file, row group

    @classmethod
    def of(cls, uri: str) -> "ParquetVectors":
        groups = []
        for file in raw_files([uri], (".parquet",)):
            try:
                with _opened(file.uri) as source:
                    metadata = pq.read_metadata(source)
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{file.uri}: not Parquet: {first_line(error)}") from None
            _check_columns(file.uri, metadata.schema.to_arrow_schema())
            groups += [(file.uri, number) for number in range(metadata.num_row_groups)]
        return cls(tuple(groups))

    def __len__(self) -> int:
        return len(self.groups)

    def pieces(self, block: int) -> Iterator[Piece]:
        uri, group = self.groups[block]
        with _opened(uri) as source:
            for batch in pq.ParquetFile(source).iter_batches(BATCH, [group], ["asin", "vector"]):
                asins = batch.column("asin").cast(pa.string()).cast(pa.binary())
                lists = batch.column("vector").cast(pa.list_(pa.float32()), safe=False)
                offsets = lists.offsets.to_numpy().astype(np.int64)
                values = lists.values.to_numpy(zero_copy_only=False)  # null becomes NaN
                yield Piece(asins, offsets, values)


@dataclass(frozen=True)
class NpyVectors:
    """A matrix of floats without labels; a block is a range of its rows."""

    uri: str
    rows: int
    width: int
    dtype: str
    start: int  # of the first row, in bytes

    @classmethod
    def of(cls, uri: str) -> "NpyVectors":
        with _opened(uri) as file:
            try:
                read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
                shape, by_column, dtype = read[npy.read_magic(file)](file)
            except (KeyError, ValueError) as error:
                raise InputError(f"{uri}: not a .npy array: {first_line(error)}") from None
            start, size = file.tell(), file.size()
        if len(shape) != 2 or dtype.kind != "f":
            raise InputError(f"{uri}: {dtype} of shape {shape}, expected rows of floats")
        if not shape[1]:
            raise InputError(f"{uri}: the vectors are empty")
        if by_column:
            raise InputError(
                f"{uri}: stored by column: save it again as numpy.ascontiguousarray gives it"
            )
        if size != start + shape[0] * shape[1] * dtype.itemsize:
            raise InputError(f"{uri}: {size} bytes do not hold {dtype} of shape {shape}")
        return cls(uri, *shape, dtype.str, start)

    @property
    def rows_per_block(self) -> int:
        return block_size(max(1, self.width))

    def __len__(self) -> int:
        return -(-self.rows // self.rows_per_block)

    def pieces(self, block: int) -> Iterator[Piece]:
        first = block * self.rows_per_block
        count = min(self.rows_per_block, self.rows - first)
        matrix = _read_rows(self.uri, self.start, np.dtype((self.dtype, self.width)), first, count)
        yield Piece.of_matrix(pa.nulls(count, pa.binary()), matrix)


@dataclass(frozen=True)
class BinaryVectors:
    """The publisher's image features: records of 10 bytes of asin and 4096 float32, plain or
    gzip. A block is a range of records, or all of a gzip.
    """

    uri: str
    records: int | None  # none for a gzip: its length is not known before it is read

    @classmethod
    def of(cls, uri: str) -> "BinaryVectors":
        with _opened(uri) as file:
            size = file.size()
        if uri.endswith(".gz"):
            return cls(uri, None)
        _check_whole(uri, size)
        return cls(uri, size // RECORD.itemsize)

    def __len__(self) -> int:
        return 1 if self.records is None else -(-self.records // RECORDS)

    def pieces(self, block: int) -> Iterator[Piece]:
        if self.records is None:
            for content in self._unpacked():
                yield self._piece(np.frombuffer(content, RECORD))
        else:
            first = block * RECORDS
            count = min(RECORDS, self.records - first)
            yield self._piece(_read_rows(self.uri, 0, RECORD, first, count))

    def _unpacked(self) -> Iterator[bytes]:
        """RECORDS records at a time."""
        size = 0
        try:
            with open_stream(self.uri) as stream:
                while content := stream.read(RECORDS * RECORD.itemsize):
                    size += len(content)
                    if len(content) % RECORD.itemsize:
                        _check_whole(self.uri, size)
                    yield content
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{self.uri}: truncated or corrupt gzip after {size} bytes ({error}): "
                "fetch the file again"
            ) from None

    def _piece(self, records: npt.NDArray[np.void]) -> Piece:
        asins = [asin.strip() for asin in records["asin"].tolist()]
        odd = next((asin for asin in asins if not asin.isalnum()), None)
        if odd is not None:
            raise InputError(
                f"{self.uri}: {odd!r} where an asin should be: expected records of "
                f"{RECORD.itemsize} bytes, 10 of asin and 4096 float32"
            )
        return Piece.of_matrix(pa.array(asins, pa.binary()), records["vector"])


def _check_columns(file: str, found: pa.Schema) -> None:
    for column, right in (("asin", _is_text), ("vector", _is_vector)):
        if column not in found.names:
            raise InputError(f"{file}: no column {column}; there is {', '.join(found.names)}")
        if not right(found.field(column).type):
            raise InputError(f"{file}: column {column} is {found.field(column).type}")


def _check_whole(uri: str, size: int) -> None:
    if size % RECORD.itemsize:
        raise InputError(
            f"{uri}: {size} bytes are no multiple of a record's {RECORD.itemsize} "
            "(10 of asin, 4096 float32): fetch the file again"
        )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_vector(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in lists) and bool(pa.types.is_floating(kind.value_type))


def _opened(uri: str) -> pa.NativeFile:
    filesystem, path = file_system(uri)
    try:
        return filesystem.open_input_file(path)
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file") from None
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {first_line(error)}") from None


def _read_rows(
    uri: str, start: int, row: np.dtype[np.void], first: int, count: int
) -> npt.NDArray[np.void]:
    """Rows [first, first + count) of those that follow one another from byte `start` on."""
    with _opened(uri) as file:
        content = file.read_at(count * row.itemsize, start + first * row.itemsize)
    return np.frombuffer(content, row)
