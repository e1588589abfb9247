"""Digests of the files of a table: made when it is written, checked before Spark reads it.

Few bytes are read by the driver, many by tasks. A table is checked once in a process.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial

import pyarrow as pa
from pyarrow import fs
from pyspark.sql import SparkSession

from etl.spark.blocks import map_blocks
from etl.spark.session import unwrap_worker_errors
from mdsrec import parquet_groups, tables
from mdsrec.files import file_system
from mdsrec.tables import FileDigests, Manifest

DRIVER_BYTES = 1 << 28  # of files that the driver reads itself


def digests_by_tasks(spark: SparkSession, uri: str) -> FileDigests:
    """Return the function by which `tables.commit` gets the digests of files of the table `uri`."""

    def digest_files(paths: Sequence[str], filesystem: fs.FileSystem) -> list[str]:
        if sum(info.size for info in filesystem.get_file_info(list(paths))) <= DRIVER_BYTES:
            return parquet_groups.digest_files(paths, filesystem)
        made = partial(_digest, uri, tuple(paths))
        rows = map_blocks(spark, len(paths), made, "file long, digests string").collect()
        found = {row["file"]: row["digests"] for row in rows}
        return [found[number] for number in range(len(paths))]

    return digest_files


def check_table(spark: SparkSession, uri: str, manifest: Manifest) -> None:
    """Read the files of a table once. InputError names a damaged one."""
    _check_version(spark, uri, tuple(file.path for file in manifest.files))


@lru_cache(maxsize=256)
def _check_version(spark: SparkSession, uri: str, files: tuple[str, ...]) -> None:
    """Check the files, whose folder is that of one version and never changes."""
    manifest = tables.open_table(uri)
    paths = tuple(tables.data_files(uri, manifest))
    digests = tuple(file.digests or "" for file in manifest.files)
    if not all(digests):
        return
    if sum(file.bytes for file in manifest.files) <= DRIVER_BYTES:
        parquet_groups.check_files(uri, paths, digests)
        return
    with unwrap_worker_errors():
        map_blocks(spark, len(paths), partial(_check, uri, paths, digests), "file long").collect()


def _digest(uri: str, paths: Sequence[str], file: int) -> Iterator[pa.RecordBatch]:
    digests = parquet_groups.digest_file(paths[file], file_system(uri)[0])
    yield pa.RecordBatch.from_pydict({"file": [file], "digests": [digests]})


def _check(
    uri: str, paths: Sequence[str], digests: Sequence[str], file: int
) -> Iterator[pa.RecordBatch]:
    parquet_groups.check_file(uri, paths[file], digests[file])
    yield pa.RecordBatch.from_pydict({"file": [file]})
