"""Raw files as a DataFrame of numbered lines. (file, line) is the input order."""

import codecs
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession

from etl.catalogue import compression
from etl.catalogue.compression import STREAM_ERRORS, open_stream, unreadable
from etl.spark.rows import frame_of_rows
from etl.spark.sizing import uncompressed_bytes
from mdsrec.errors import InputError, near_file
from mdsrec.files import file_system, join

log = logging.getLogger("etl")

SUFFIXES = tuple(kind + packed for packed in compression.SUFFIXES for kind in (".json", ".jsonl"))
SHOWN_NAMES = 5  # of files that are not read
BATCH_BYTES = 8 << 20
MAX_READERS = 8  # of one file: each decompresses all of it
SHARE_BYTES = 4 << 30  # of decompressed lines
LINES_PER_RUN = 1024
LONGEST_LINE = 1 << 30  # bytes, with its end; Arrow and Spark count those of a batch in 31 bits
OWN_NAMES = ("_SUCCESS", "_committed_", "_started_")  # that Spark writes beside its files
SHARES = pa.schema(
    dict.fromkeys(("task", "file", "share", "shares"), pa.int32()) | {"uri": pa.string()}
)
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
        {"file": number, "uri": file.uri, "share": share, "shares": num_shares}
        for number, file in enumerate(files)
        for num_shares in [shares_of(file, len(files), spark.sparkContext.defaultParallelism)]
        for share in range(num_shares)
    ]
    return (
        frame_of_rows(spark, [{"task": n, **task} for n, task in enumerate(tasks)], SHARES)
        .repartitionById(max(len(tasks), 1), "task")
        .mapInArrow(_read_shares, RAW_LINES)
    )


def shares_of(file: RawFile, num_files: int, num_cores: int) -> int:
    """Return how many tasks read a file."""
    by_cores = -(-num_cores // num_files)
    by_size = -(-uncompressed_bytes(file.uri, file.size) // SHARE_BYTES)
    return min(MAX_READERS, max(by_cores, by_size))


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
    except STREAM_ERRORS as error:
        raise unreadable(uri, error, f" after line {number}") from None
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
    if left := [*_not_read(infos, suffixes), *_broken_links(filesystem, path, infos)]:
        more = f", and {len(left) - SHOWN_NAMES} more" if len(left) > SHOWN_NAMES else ""
        log.warning("%s: not read: %s%s", uri, ", ".join(left[:SHOWN_NAMES]), more)
    found.sort(key=lambda info: info.base_name)
    return [_raw_file(join(uri, info.base_name), info) for info in found]


def _not_read(infos: Sequence[Any], suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the name of each entry that is left out, and why; not those of other programs' own."""
    for info in sorted(infos, key=lambda info: str(info.base_name)):
        name = info.base_name
        if name.startswith(OWN_NAMES) or name.endswith(".crc"):
            continue
        if is_hidden(name):
            yield f"{name} (hidden)"
        elif info.type == fs.FileType.Directory:
            yield f"{name}/ (a folder)"
        elif info.type != fs.FileType.File:
            yield f"{name} (not a file)"
        elif not name.lower().endswith(suffixes):
            yield f"{name} (another suffix)"


def _broken_links(filesystem: Any, path: str, infos: Sequence[Any]) -> Iterator[str]:
    """Yield the links to nowhere, which a local listing leaves out."""
    if filesystem.type_name == "local":
        listed = {info.base_name for info in infos}
        names = sorted(entry.name for entry in Path(path).iterdir() if entry.name not in listed)
        yield from (f"{name} (a broken link)" for name in names)


def _raw_file(uri: str, info: Any) -> RawFile:
    if info.type != fs.FileType.File:
        raise InputError(f"{uri}: not a file and not a folder")
    return RawFile(uri, int(info.size), info.mtime_ns)
