"""The user's files of vectors: Parquet, .npy, and the publisher's binary image features."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy

from etl.catalogue.compression import STREAM_ERRORS, open_stream, unreadable
from etl.catalogue.raw import raw_files
from etl.features.vector_blocks import VectorBatch
from etl.features.vector_columns import check_columns, id_column, id_labels, vector_lists
from etl.spark.blocks import block_size
from mdsrec.errors import InputError
from mdsrec.files import file_system, first_line

PARQUET_BATCH = 1024  # rows
RECORD = np.dtype([("asin", "S10"), ("vector", "<f4", 4096)])  # of the publisher's image features
RECORDS_PER_BLOCK = block_size(4096)


@dataclass(frozen=True)
class ParquetVectors:
    """Parquet files with the columns item_id (or asin) and vector; a block is a row group."""

    groups: tuple[tuple[str, int], ...]  # file, row group

    @classmethod
    def open(cls, uri: str) -> "ParquetVectors":
        groups = []
        for file in raw_files([uri], (".parquet",)):
            try:
                with _open_file(file.uri) as source:
                    metadata = pq.read_metadata(source)
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{file.uri}: not Parquet: {first_line(error)}") from None
            check_columns(file.uri, metadata.schema.to_arrow_schema())
            groups += [(file.uri, number) for number in range(metadata.num_row_groups)]
        return cls(tuple(groups))

    def __len__(self) -> int:
        return len(self.groups)

    def batches(self, block: int) -> Iterator[VectorBatch]:
        uri, group = self.groups[block]
        with _open_file(uri) as source:
            file = pq.ParquetFile(source)
            key = id_column(uri, file.schema_arrow)
            for batch in file.iter_batches(PARQUET_BATCH, [group], [key, "vector"]):
                labels = id_labels(uri, key, batch.column(key))
                lists = vector_lists(batch.column("vector"))
                offsets = lists.offsets.to_numpy().astype(np.int64)
                values = lists.values.to_numpy(zero_copy_only=False)  # null becomes NaN
                yield VectorBatch(labels, offsets, values)


@dataclass(frozen=True)
class NpyVectors:
    """A .npy matrix of numbers, without labels; a block is a range of its rows."""

    uri: str
    rows: int
    width: int
    dtype: str
    start: int  # byte offset of the first row

    @classmethod
    def open(cls, uri: str) -> "NpyVectors":
        with _open_file(uri) as file:
            try:
                read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
                shape, by_column, dtype = read[npy.read_magic(file)](file)
            except (KeyError, ValueError) as error:
                raise InputError(f"{uri}: not a .npy array: {first_line(error)}") from None
            start, size = file.tell(), file.size()
        if len(shape) != 2 or dtype.kind not in "fiub":
            raise InputError(
                f"{uri}: {dtype} of shape {shape}, expected a matrix of numbers, one row per item"
            )
        if not shape[1]:
            raise InputError(f"{uri}: the vectors are empty")
        if by_column:
            raise InputError(
                f"{uri}: stored in column order: save numpy.ascontiguousarray of the matrix"
            )
        if size != start + shape[0] * shape[1] * dtype.itemsize:
            raise InputError(
                f"{uri}: {size} bytes are not the size of {dtype} of shape {shape}: fetch the "
                "file again"
            )
        return cls(uri, *shape, dtype.str, start)

    @property
    def rows_per_block(self) -> int:
        return block_size(max(1, self.width))

    def __len__(self) -> int:
        return -(-self.rows // self.rows_per_block)

    def batches(self, block: int) -> Iterator[VectorBatch]:
        first = block * self.rows_per_block
        count = min(self.rows_per_block, self.rows - first)
        matrix = _read_rows(self.uri, self.start, np.dtype((self.dtype, self.width)), first, count)
        yield VectorBatch.of_matrix(pa.nulls(count, pa.binary()), matrix)


@dataclass(frozen=True)
class BinaryVectors:
    """The publisher's image features: records of a 10-byte asin and 4096 float32 numbers.

    A block is a range of records. A gzip file is a single block, as it cannot be read from within.
    """

    uri: str
    records: int | None  # None for gzip, where the number is known only after reading

    @classmethod
    def open(cls, uri: str) -> "BinaryVectors":
        with _open_file(uri) as file:
            size = file.size()
        if uri.endswith(".gz"):
            return cls(uri, None)
        _check_size(uri, size)
        return cls(uri, size // RECORD.itemsize)

    def __len__(self) -> int:
        return 1 if self.records is None else -(-self.records // RECORDS_PER_BLOCK)

    def batches(self, block: int) -> Iterator[VectorBatch]:
        if self.records is None:
            for content in self._decompress():
                yield self._batch(np.frombuffer(content, RECORD))
        else:
            first = block * RECORDS_PER_BLOCK
            count = min(RECORDS_PER_BLOCK, self.records - first)
            yield self._batch(_read_rows(self.uri, 0, RECORD, first, count))

    def _decompress(self) -> Iterator[bytes]:
        """Yield the bytes of RECORDS_PER_BLOCK records at a time."""
        size = 0
        try:
            with open_stream(self.uri) as stream:
                while content := stream.read(RECORDS_PER_BLOCK * RECORD.itemsize):
                    size += len(content)
                    if len(content) % RECORD.itemsize:
                        _check_size(self.uri, size)
                    yield content
        except STREAM_ERRORS as error:
            raise unreadable(self.uri, error, f" after {size} bytes") from None

    def _batch(self, records: npt.NDArray[np.void]) -> VectorBatch:
        asins = [asin.strip() for asin in records["asin"].tolist()]
        invalid = next((asin for asin in asins if not asin.isalnum()), None)
        if invalid is not None:
            raise InputError(
                f"{self.uri}: {invalid!r} is not an asin: expected records of "
                f"{RECORD.itemsize} bytes, 10 of asin and 4096 float32"
            )
        return VectorBatch.of_matrix(pa.array(asins, pa.binary()), records["vector"])


def _check_size(uri: str, size: int) -> None:
    if size % RECORD.itemsize:
        raise InputError(
            f"{uri}: {size} bytes are not a multiple of a record's {RECORD.itemsize} "
            "(10 of asin, 4096 float32): fetch the file again"
        )


def _open_file(uri: str) -> pa.NativeFile:
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
    """Read rows [first, first + count) of those stored from byte `start` on."""
    with _open_file(uri) as file:
        content = file.read_at(count * row.itemsize, start + first * row.itemsize)
    return np.frombuffer(content, row)
