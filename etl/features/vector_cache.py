"""Encoded vectors by the hash of what was encoded, in files that tasks write as they go: what one
run encoded, killed or not, no other run encodes again.

A file is whole or not there and never changes. Two files may hold the same key, so jobs that write
at once need not know of each other.
"""

import hashlib
import logging
import re
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

from etl.features.vector_blocks import Piece, surveyed
from etl.spark.spans import Vectors
from mdsrec.files import file_system, read_bytes, write_bytes

log = logging.getLogger("etl")

NAME = re.compile(r"[0-9a-f]{32}-(\d+)\.parquet")  # hash of the keys, number of vectors
DAMAGE = (OSError, pa.ArrowException, KeyError, IndexError, AttributeError)


@dataclass(frozen=True)
class CacheFiles:
    """Files of a cache as blocks of vectors; one that is damaged holds none."""

    folder: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def pieces(self, block: int) -> Iterator[Piece]:
        content = read_bytes(f"{self.folder}/{self.names[block]}")
        with suppress(*DAMAGE):
            yield _parsed(content or b"")


@dataclass(frozen=True)
class VectorCache:
    """Files that were found, and what is known of their vectors."""

    files: CacheFiles
    vectors: DataFrame  # vector_blocks.SURVEY, labelled by key
    damaged: frozenset[str]  # files that were deleted, and may be written again

    @cached_property
    def places(self) -> DataFrame:
        """DataFrame(key, block, row, width): of several vectors of a key that of the first file."""
        place = F.min(F.struct("block", "row", "width")).alias("place")
        by_key = self.vectors.groupBy(F.col("label").alias("key")).agg(place)
        return by_key.select("key", "place.*")

    def added(self) -> list[str]:
        """Files that were written since."""
        known = set(self.files.names) - self.damaged
        return [name for name in _names(self.files.folder) if name not in known]


def opened(spark: SparkSession, folder: str, num_tasks: int) -> VectorCache:
    """The cache as it stands; every file is read, damaged ones are deleted."""
    files = CacheFiles(folder, tuple(_names(folder)))
    vectors = surveyed(spark, files, num_tasks)
    whole = {row.block for row in vectors.select("block").distinct().collect()}
    damaged = [name for block, name in enumerate(files.names) if block not in whole]
    for name in damaged:
        log.warning("%s/%s is damaged: deleted, to be encoded again", folder, name)
        filesystem, path = file_system(f"{folder}/{name}")
        with suppress(FileNotFoundError):
            filesystem.delete_file(path)
    return VectorCache(files, vectors, frozenset(damaged))


def extended(spark: SparkSession, cache: VectorCache, num_tasks: int) -> VectorCache:
    """The cache with the files that were written since; only these are read."""
    known = cache.files.names
    files = CacheFiles(cache.files.folder, (*known, *cache.added()))
    added = surveyed(spark, files, num_tasks, first=len(known))
    return VectorCache(files, cache.vectors.unionAll(added), cache.damaged)


def num_vectors(names: list[str]) -> int:
    return sum(int(found[1]) for name in names if (found := NAME.fullmatch(name)))


def write_file(folder: str, keys: pa.Array, vectors: Vectors) -> None:
    """Vectors [n, d] of the keys [n] as a file of the cache; the same keys make the same name."""
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
    name = f"{digest}-{len(keys)}.parquet"
    write_bytes(f"{folder}/{name}", content.getvalue().to_pybytes())


def _parsed(content: bytes) -> Piece:
    source = pa.BufferReader(content)
    table = pq.ParquetFile(source, page_checksum_verification=True).read(["key", "vector"])
    keys, vectors = (table.column(name).combine_chunks() for name in table.column_names)
    width = vectors.type.byte_width // 4
    values = np.frombuffer(vectors.buffers()[1], np.float32)[: len(keys) * width]
    return Piece.of_matrix(keys, values.reshape(-1, width))


def _names(folder: str) -> list[str]:
    filesystem, path = file_system(folder)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if NAME.fullmatch(info.base_name))
