"""Parts of a table that is not committed yet, which a later start of the same job keeps.

The name of a part ends with the CRC-32 of its content. So a part that was damaged, or belongs to an
older version of this program, is not taken for one: it is written again.
"""

import logging
import re
import zlib
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mdsrec import files

PART = re.compile(r"part-(\d{5,})-([0-9a-f]{8})\.parquet")
READERS = 8

log = logging.getLogger("evaluation")


def write_part(version: str, number: int, content: memoryview) -> None:
    """Write the part of a shard into the folder `version`, atomically."""
    files.write_bytes(f"{version}/part-{number:05d}-{zlib.crc32(content):08x}.parquet", content)


def rows_of_parts(version: str) -> dict[int, int]:
    """Return the number of rows of each intact part in `version`, by shard number.

    Parts are read whole. Others are deleted and named in the log.
    """
    filesystem, path = files.file_system(version)
    found = filesystem.get_file_info(fs.FileSelector(path))
    paths = sorted(info.path for info in found if info.extension == "parquet")
    num_rows: dict[int, int] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for part, rows in zip(paths, pool.map(lambda p: _rows(filesystem, p), paths), strict=True):
            number = _shard_number(part)
            if rows is None or number in num_rows:
                log.warning("%s is damaged or of another version: it is written again", part)
                filesystem.delete_file(part)
            else:
                num_rows[number] = rows
    return num_rows


def _shard_number(path: str) -> int:
    name = PART.fullmatch(path.rpartition("/")[2])
    return -1 if name is None else int(name[1])


def _rows(filesystem: fs.FileSystem, path: str) -> int | None:
    """Return the number of rows of a part, or None if its content is not that of its name."""
    name = PART.fullmatch(path.rpartition("/")[2])
    with filesystem.open_input_stream(path) as stream:
        content = stream.read()
    if name is None or f"{zlib.crc32(content):08x}" != name[2]:
        return None
    return int(pq.read_metadata(pa.BufferReader(content)).num_rows)
