"""Cache of encoded vectors, in files that tasks write as soon as a chunk is encoded.

The key of a vector is the hash of the content it was encoded from. A run that is killed leaves its
files, and later runs do not encode their contents again.

A file is written atomically and never changes. Two files may hold the same key, so jobs and roots
that share a cache (`features.cache`) need no coordination.
"""

import hashlib
import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.features.vector_blocks import VectorBatch, inspect_vectors
from etl.spark.vector_table import Vectors
from mdsrec.files import delete_file, file_system, read_bytes, write_bytes

log = logging.getLogger("etl")

NAME = re.compile(r"[0-9a-f]{32}-(\d+)(?:-([0-9a-f]{8}))?\.parquet")
"""Hash of the keys, number of vectors, and CRC-32 of the content, which older files do not have."""
DAMAGE = (OSError, pa.ArrowException, KeyError, IndexError, AttributeError)


@dataclass(frozen=True)
class CacheFiles:
    """Files of a cache as a VectorSource; each is a block, and a damaged one has no vectors."""

    folder: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, block: int) -> Iterator[VectorBatch]:
        name = self.names[block]
        content = read_bytes(f"{self.folder}/{name}") or b""
        with suppress(*DAMAGE):
            yield _parse(name, content)


@dataclass(frozen=True)
class VectorCache:
    """The files of a cache at one time, and their vectors."""

    files: CacheFiles
    vectors: DataFrame  # as of inspect_vectors; the label is the key
    damaged: frozenset[str]  # files that were deleted, and may be written again

    @cached_property
    def locations(self) -> DataFrame:
        """DataFrame(key, block, row, width, digest); a key has the vector of its first file."""
        location = F.min(F.struct("block", "row", "width", "digest")).alias("location")
        by_key = self.vectors.groupBy(F.col("label").alias("key")).agg(location)
        return by_key.select("key", "location.*")

    def new_files(self) -> list[str]:
        """Return the names of the files written since the cache was opened."""
        known = set(self.files.names) - self.damaged
        return [name for name in _file_names(self.files.folder) if name not in known]


def open_cache(spark: SparkSession, folder: str, num_tasks: int) -> VectorCache:
    """Read every file of a cache and delete the damaged ones."""
    files = CacheFiles(folder, tuple(_file_names(folder)))
    vectors = inspect_vectors(spark, files, num_tasks)
    intact = {row.block for row in vectors.select("block").distinct().collect()}
    damaged = [name for block, name in enumerate(files.names) if block not in intact]
    for name in damaged:
        _delete_damaged(folder, name)
    return VectorCache(files, vectors, frozenset(damaged))


def _delete_damaged(folder: str, name: str) -> None:
    """Delete a damaged file, unless another job has deleted or written it again meanwhile."""
    content = read_bytes(f"{folder}/{name}")
    try:
        if content is not None:
            _parse(name, content)
    except DAMAGE:
        log.warning("%s/%s is damaged: deleted, its contents are encoded again", folder, name)
        with suppress(FileNotFoundError):
            delete_file(f"{folder}/{name}")


def add_new_files(spark: SparkSession, cache: VectorCache, num_tasks: int) -> VectorCache:
    """Return the cache with the files written since it was opened; only these are read."""
    known = cache.files.names
    files = CacheFiles(cache.files.folder, (*known, *cache.new_files()))
    added = inspect_vectors(spark, files, num_tasks, first=len(known))
    return VectorCache(files, cache.vectors.unionAll(added), cache.damaged)


def num_vectors(names: list[str]) -> int:
    """Return the number of vectors in files, read from their names."""
    return sum(int(match[1]) for name in names if (match := NAME.fullmatch(name)))


def write_cache_file(folder: str, keys: pa.Array, vectors: Vectors) -> None:
    """Write the vectors [n, d] of the keys [n]; the file's name is as NAME says."""
    packed = pa.py_buffer(np.ascontiguousarray(vectors, np.float32))
    kind = pa.binary(4 * vectors.shape[1])
    table = pa.table(
        {
            "key": keys.cast(pa.binary()),
            "vector": pa.FixedSizeBinaryArray.from_buffers(kind, len(keys), [None, packed]),
        }
    )
    content = pa.BufferOutputStream()
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, content, write_page_checksum=True, **plain)
    digest = hashlib.sha256(b"".join(keys.to_pylist())).hexdigest()[:32]
    written = content.getvalue().to_pybytes()
    name = f"{digest}-{len(keys)}-{zlib.crc32(written):08x}.parquet"
    write_bytes(f"{folder}/{name}", written)


def _parse(name: str, content: bytes) -> VectorBatch:
    """Return the vectors of a file. Raises one of DAMAGE if it is damaged."""
    found = NAME.fullmatch(name)
    if found and found[2] and found[2] != f"{zlib.crc32(content):08x}":
        raise OSError(f"{name}: damaged")
    source = pa.BufferReader(content)
    table = pq.ParquetFile(source, page_checksum_verification=True).read(["key", "vector"])
    keys, vectors = (table.column(name).combine_chunks() for name in table.column_names)
    width = vectors.type.byte_width // 4
    values = np.frombuffer(vectors.buffers()[1], np.float32)[: len(keys) * width]
    return VectorBatch.of_matrix(keys, values.reshape(-1, width))


def _file_names(folder: str) -> list[str]:
    filesystem, path = file_system(folder)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if NAME.fullmatch(info.base_name))
