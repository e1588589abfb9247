"""Image files of a folder, named ASIN.jpg (.png, ...): listing, hashing and decoding."""

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.spark.session import materialize, num_partitions
from mdsrec.errors import InputError
from mdsrec.files import file_system, read_bytes
from mdsrec.images import SUFFIXES, ImageError, flatten, open_image

if TYPE_CHECKING:
    from PIL import Image

MAX_ASPECT = 100  # longer side to shorter: a thin image grows when its shorter side is scaled up
FILES_PER_BATCH = 10_000
WITH_KEYS = "item int, content string, key binary, missed string"


class ImageFile(NamedTuple):
    name: str
    size: int
    modified: int  # nanoseconds


def image_files(folder: str) -> Iterator[ImageFile]:
    """Yield the images of a folder in no order, by their suffix in any case.

    InputError if the folder is missing or holds no image.
    """
    filesystem, path = file_system(folder)
    if filesystem.get_file_info(path).type != fs.FileType.Directory:
        raise InputError(f"{folder}: no such folder of images")
    is_local = filesystem.type_name == "local"
    found = False
    for file in _local_files(path) if is_local else _remote_files(filesystem, path):
        if file.name.lower().endswith(SUFFIXES):
            found = True
            yield file
    if not found:
        raise InputError(f"{folder}: no file of this folder ends in {' or '.join(SUFFIXES)}")


def folder_identity(folder: str) -> str:
    """Return one number for the names, sizes and modification times of a folder's images.

    It is a sum of hashes, so the files are neither held in memory nor sorted.
    """
    total = 0
    for file in image_files(folder):
        total += int.from_bytes(hashlib.sha256(repr(tuple(file)).encode()).digest())
    return f"{total % 2**256:064x}"


def files_of_items(spark: SparkSession, folder: str) -> DataFrame:
    """Return DataFrame(asin, content): every image of the folder, `content` is its URI.

    One task lists the folder. InputError if two files have the same asin.
    """
    one_row = spark.range(0, 1, numPartitions=1)
    files = one_row.mapInArrow(partial(_list_images, folder), "asin string, content string")
    files = materialize(files.repartition("asin"))
    pairs = files.groupBy("asin").agg(F.sort_array(F.collect_list("content")).alias("contents"))
    if row := pairs.where(F.size("contents") > 1).orderBy("asin").first():
        first, second = row.contents[:2]
        raise InputError(f"asin {row.asin} has two images, {first} and {second}: remove one")
    return files


def with_keys(files: DataFrame) -> DataFrame:
    """DataFrame(item, content) -> (item, content, key, missed).

    `key` is the SHA-256 of the file. If the file cannot be read it is null and `missed` is the
    reason.
    """
    spread = files.repartition(num_partitions(files.sparkSession), "item")
    return materialize(spread.select("item", "content").mapInArrow(_hash_files, WITH_KEYS))


def read_file(uri: str) -> bytes:
    """Return the file's bytes; ImageError if it cannot be read."""
    try:
        content = read_bytes(uri)
    except (OSError, pa.ArrowException):
        content = None
    if content is None:
        raise ImageError("unreadable file")
    return content


def decode_image(content: bytes) -> "Image.Image":
    """Return the image in RGB, with transparent parts white; ImageError if it is not usable."""
    image = open_image(content)
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError("too narrow")
    try:
        return flatten(image)
    except Exception:  # decoders raise many kinds
        raise ImageError("broken image") from None


def _local_files(path: str) -> Iterator[ImageFile]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file():
                status = entry.stat()
                yield ImageFile(entry.name, status.st_size, status.st_mtime_ns)


def _remote_files(filesystem: fs.FileSystem, path: str) -> Iterator[ImageFile]:
    for info in filesystem.get_file_info(fs.FileSelector(path)):
        if info.type == fs.FileType.File:
            yield ImageFile(info.base_name, info.size, info.mtime_ns or 0)


def _list_images(folder: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _ in batches:
        names: list[str] = []
        for file in image_files(folder):
            names.append(file.name)
            if len(names) == FILES_PER_BATCH:
                yield _image_rows(folder, names)
                names = []
        yield _image_rows(folder, names)


def _image_rows(folder: str, names: list[str]) -> pa.RecordBatch:
    columns = {
        "asin": pa.array([Path(name).stem for name in names], pa.string()),
        "content": pa.array([f"{folder.rstrip('/')}/{name}" for name in names], pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)


def _hash_files(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        keys: list[bytes | None] = []
        missed: list[str | None] = []
        for uri in batch.column("content").to_pylist():
            key, reason = None, None
            try:
                key = hashlib.sha256(read_file(uri)).digest()
            except ImageError as error:
                reason = str(error)
            keys.append(key)
            missed.append(reason)
        columns = [*batch.columns, pa.array(keys, pa.binary()), pa.array(missed, pa.string())]
        yield pa.RecordBatch.from_arrays(columns, ["item", "content", "key", "missed"])
