"""Raw files as a DataFrame of numbered lines. (file, line) is the input order."""

import codecs
import gzip
import io
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, cast

import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession

from etl.spark.sizing import uncompressed_bytes
from mdsrec.errors import InputError, near_file
from mdsrec.files import file_system, join

log = logging.getLogger("etl")

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
GZIP_MAGIC = b"\x1f\x8b"
BATCH_BYTES = 8 << 20
MAX_READERS = 8  # of one file: each decompresses all of it
SHARE_BYTES = 4 << 30  # of decompressed lines
LINES_PER_RUN = 1024
LONGEST_LINE = 1 << 30  # bytes, with its end; Arrow and Spark count those of a batch in 31 bits
SHARES = "task int, file int, uri string, share int, shares int"
RAW_LINES = "file int, line long, raw binary"


@dataclass(frozen=True)
class RawFile:
    """A file of the raw input."""

    uri: str
    size: int
    modified: int | None  # nanoseconds; None if the storage keeps no time

    @property
    def state(self) -> str | None:
        """Return text that changes when the file is written again; None if that is unknown."""
        return None if self.modified is None else f"{self.size} {self.modified}"


def raw_files(uris: Sequence[str], suffixes: tuple[str, ...] = SUFFIXES) -> list[RawFile]:
    """Return the files in the given order.

    A folder is replaced by its files with `suffixes`, without hidden ones.
    """
    found: list[RawFile] = []
    for uri in uris:
        filesystem, path = file_system(uri)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise InputError(f"{uri}: no such file or folder{near_file(uri)}")
        if info.type == fs.FileType.Directory:
            found += _files_of_folder(uri, filesystem, path, suffixes)
        else:
            found.append(_raw_file(uri, info))
    return found


def raw_lines(spark: SparkSession, files: Sequence[RawFile]) -> DataFrame:
    """Return DataFrame(file, line, raw); `file` is a position in `files`, lines count from 1.

    A file cannot be read from the middle. Where it is large, or files are fewer than cores, several
    tasks read it, and each keeps a share of its lines. So no line is shuffled, with texts that
    nobody needs.
    """
    tasks = [
        (number, file.uri, share, num_shares)
        for number, file in enumerate(files)
        for num_shares in [shares_of(file, len(files), spark.sparkContext.defaultParallelism)]
        for share in range(num_shares)
    ]
    return (
        spark.createDataFrame([(n, *task) for n, task in enumerate(tasks)], SHARES)
        .repartitionById(max(len(tasks), 1), "task")
        .mapInArrow(_read_shares, RAW_LINES)
    )


def shares_of(file: RawFile, num_files: int, num_cores: int) -> int:
    """Return how many tasks read a file."""
    by_cores = -(-num_cores // num_files)
    by_size = -(-uncompressed_bytes(file.uri, file.size) // SHARE_BYTES)
    return min(MAX_READERS, max(by_cores, by_size))


def open_stream(uri: str) -> IO[bytes]:
    """Open a file and decompress it if it starts with gzip's magic number, whatever its name."""
    filesystem, path = file_system(uri)
    stream = io.BufferedReader(filesystem.open_input_stream(path, compression=None), 1 << 20)
    if stream.peek(2)[:2] == GZIP_MAGIC:
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    return stream


def numbered_lines(uri: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line without its end).

    Raises InputError if the file is empty, truncated or corrupt.
    """
    number = 0
    try:
        with open_stream(uri) as stream:
            lines = iter(partial(stream.readline, LONGEST_LINE + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > LONGEST_LINE:
                    raise InputError(
                        f"{uri}: line {number} is longer than {LONGEST_LINE >> 20:,} MiB: is it a "
                        "file of lines?"
                    )
                text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                yield number, text.rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{uri}: truncated or corrupt gzip after line {number} ({error}): fetch the file again"
        ) from None
    except OSError as error:
        raise InputError(f"{uri}: cannot be read after line {number}: {error}") from None
    if number == 0:
        raise InputError(f"{uri}: the file is empty")


def _read_shares(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in batch.to_pylist():
            yield from _line_batches(row["file"], row["uri"], row["share"], row["shares"])


def _line_batches(file: int, uri: str, share: int, num_shares: int) -> Iterator[pa.RecordBatch]:
    """Yield the lines of a share: every `num_shares`-th run of LINES_PER_RUN lines."""
    numbers: list[int] = []
    lines: list[bytes] = []
    size = 0
    for number, line in numbered_lines(uri):
        if number // LINES_PER_RUN % num_shares != share:
            continue
        numbers.append(number)
        lines.append(line)
        size += len(line)
        if size >= BATCH_BYTES:
            yield _batch(file, numbers, lines)
            numbers, lines, size = [], [], 0
    yield _batch(file, numbers, lines)


def _batch(file: int, numbers: list[int], lines: list[bytes]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([file] * len(numbers), pa.int32()),
            pa.array(numbers, pa.int64()),
            pa.array(lines, pa.binary()),
        ],
        names=["file", "line", "raw"],
    )


def is_hidden(name: str) -> bool:
    """Return whether other programs skip a file of this name, as Spark's `_SUCCESS` and `.crc`."""
    return name.startswith(("_", "."))


@contextmanager
def utf8_names(uri: str) -> Iterator[None]:
    """Raise InputError where the name of a file in the folder `uri` is not UTF-8."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"{uri}: the name {error.object!r} is not UTF-8: rename the file"
        ) from None


def _files_of_folder(
    uri: str, filesystem: Any, path: str, suffixes: tuple[str, ...]
) -> list[RawFile]:
    with utf8_names(uri):
        infos = filesystem.get_file_info(fs.FileSelector(path))
        shown = [info for info in infos if not is_hidden(info.base_name)]
    found = [
        info
        for info in shown
        if info.type == fs.FileType.File and info.base_name.lower().endswith(suffixes)
    ]
    if not found:
        raise InputError(f"{uri}: no file in this folder ends in {' or '.join(suffixes)}")
    if skipped := len(shown) - len(found):
        log.info("%s: skipped %d folders or files of other suffixes in it", uri, skipped)
    found.sort(key=lambda info: info.base_name)
    return [_raw_file(join(uri, info.base_name), info) for info in found]


def _raw_file(uri: str, info: Any) -> RawFile:
    if info.type != fs.FileType.File:
        raise InputError(f"{uri}: not a file and not a folder")
    return RawFile(uri, int(info.size), info.mtime_ns)
