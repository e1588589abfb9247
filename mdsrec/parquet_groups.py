"""Row groups of Parquet files: what their footers say, and their rows, a bounded part at a time."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mdsrec.digests.blocks import READ_BYTES, CheckedFile, block_digests
from mdsrec.files import file_system

READERS = 32  # files read at once; storage answers each after its latency
DIGEST_THREADS = 8  # files read whole at once
BATCH_VALUES = 1 << 18  # of the longest column, in a batch


@dataclass(frozen=True)
class RowGroup:
    """A row group as the manifest describes it.

    `first` and `last` are the smallest and the largest value of the leading column, if it holds
    integers.
    """

    rows: int
    first: int | None = None
    last: int | None = None


class StoredGroup(NamedTuple):
    """A row group, and where it is."""

    path: str  # in the file system of the table
    number: int  # in its file
    rows: int
    first: int | None
    last: int | None
    digests: str | None = None  # of the blocks of its file; None in tables of older versions


def read_footers(paths: Sequence[str], filesystem: fs.FileSystem) -> list[tuple[RowGroup, ...]]:
    """Return the row groups of each file, none if it is empty; many footers are read at once."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(_read_footer, filesystem=filesystem), paths))


def _read_footer(path: str, filesystem: fs.FileSystem) -> tuple[RowGroup, ...]:
    metadata = pq.read_metadata(path, filesystem=filesystem)
    if not metadata.num_rows:
        return ()
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return tuple(_described(group) for group in groups)


def _described(group: pq.RowGroupMetaData) -> RowGroup:
    leading = group.column(0)
    is_integer = leading.physical_type in ("INT32", "INT64") and "." not in leading.path_in_schema
    if not is_integer or not leading.is_stats_set or not leading.statistics.has_min_max:
        return RowGroup(group.num_rows)
    return RowGroup(group.num_rows, int(leading.statistics.min), int(leading.statistics.max))


def digest_files(paths: Sequence[str], filesystem: fs.FileSystem) -> list[str]:
    """Return the digests of the blocks of each file; several files are read at once."""
    with ThreadPoolExecutor(DIGEST_THREADS) as pool:
        return list(pool.map(partial(digest_file, filesystem=filesystem), paths))


def digest_file(path: str, filesystem: fs.FileSystem) -> str:
    """Return the digests of the blocks of a file."""
    with filesystem.open_input_stream(path) as stream:
        return block_digests(iter(partial(stream.read, READ_BYTES), b""))


def check_files(uri: str, paths: Sequence[str], digests: Sequence[str]) -> None:
    """Read whole files of the table at `uri`. InputError names a damaged one."""
    with ThreadPoolExecutor(DIGEST_THREADS) as pool:
        for _ in pool.map(partial(check_file, uri), paths, digests):
            pass


def check_file(uri: str, path: str, digests: str) -> None:
    """Read a whole file of the table at `uri`. InputError if it is damaged."""
    checked = _checked(uri, path, digests)
    checked.check()
    checked.close()


def stored_groups(
    paths: Sequence[str],
    groups: Iterable[Sequence[RowGroup]],
    digests: Iterable[str | None] = repeat(None),
) -> list[StoredGroup]:
    """Return the row groups of all files in order."""
    return [
        StoredGroup(path, number, group.rows, group.first, group.last, of_file)
        for path, in_file, of_file in zip(paths, groups, digests, strict=False)
        for number, group in enumerate(in_file)
    ]


def read_group(uri: str, group: StoredGroup, columns: Sequence[str]) -> pa.Table:
    """Return a row group of the table at `uri`."""
    with open_file(uri, group.path, group.digests) as file:
        return file.read_row_group(group.number, list(columns))


def batches(uri: str, groups: Iterable[StoredGroup], wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the groups in order, in columns and types of `wanted`.

    A batch has about BATCH_VALUES values at most, so memory does not depend on the groups' sizes,
    and no list of Arrow has more values than its offsets can count.
    """
    for group in groups:
        with open_file(uri, group.path, group.digests) as file:
            rows = _rows_of_batch(file.metadata.row_group(group.number), wanted)
            for batch in file.iter_batches(rows, [group.number], wanted.names):
                yield batch.select(wanted.names).cast(wanted)


def batches_between(
    uri: str, groups: Iterable[StoredGroup], wanted: pa.Schema, first: int, last: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows whose first column, which ascends, has first <= value < last."""
    inside = (group for group in groups if _overlaps(group, first, last))
    for batch in batches(uri, inside, wanted):
        start, stop = np.searchsorted(batch.column(0).to_numpy(), [first, last]).tolist()
        if start < stop:
            yield batch.slice(start, stop - start)


def _overlaps(group: StoredGroup, first: int, last: int) -> bool:
    """Return whether a row group can have such a row; one that is not described can."""
    if group.first is None or group.last is None:
        return True
    return group.first < last and first <= group.last


def _rows_of_batch(group: pq.RowGroupMetaData, wanted: pa.Schema) -> int:
    columns = (group.column(index) for index in range(group.num_columns))
    values = [c.num_values for c in columns if c.path_in_schema.split(".")[0] in wanted.names]
    rows: int = group.num_rows * BATCH_VALUES // max([1, *values])
    return max(1, rows)


def open_file(uri: str, path: str, digests: str | None, **options: Any) -> pq.ParquetFile:
    """Open a file of the table at `uri`. What is read of it is checked, if there are digests."""
    metadata = _footer(uri, path, digests)
    source = _source(uri, path, digests)
    return pq.ParquetFile(source, metadata=metadata, buffer_size=READ_BYTES, **options)


@lru_cache(maxsize=1024)
def _footer(uri: str, path: str, digests: str | None) -> pq.FileMetaData:
    """Return the footer of a file. A file of a table never changes, so it is read once."""
    with _source(uri, path, digests) as source:
        return pq.read_metadata(source)


def _source(uri: str, path: str, digests: str | None) -> pa.NativeFile:
    if digests is None:
        return file_system(uri)[0].open_input_file(path)
    return pa.PythonFile(_checked(uri, path, digests), mode="r")


def _checked(uri: str, path: str, digests: str) -> CheckedFile:
    file = file_system(uri)[0].open_input_file(path)
    remedy = f"delete the folder {uri} and run the stage that writes it again"
    return CheckedFile(file, path, digests, remedy)
