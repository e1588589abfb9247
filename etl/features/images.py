"""Image files of a folder, named ITEM_ID.jpg (.png, ...): listing, hashing and decoding."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.catalogue.content_hashes import ContentHashes
from etl.spark.progress import step_progress
from etl.spark.session import materialize, num_partitions
from mdsrec.errors import InputError
from mdsrec.files import file_system, join, read_bytes
from mdsrec.images import LARGE_PIXELS, SUFFIXES, ImageError, flatten, open_image

if TYPE_CHECKING:
    from PIL import Image

MIN_SIDE = 2  # pixels of the longer side; an image of one pixel is a spacer
MAX_ASPECT = 100  # longer side to shorter: a thin image grows when its shorter side is scaled up
FILES_PER_BATCH = 10_000
HASH_THREADS = 16
_large_image = threading.Lock()
WITH_KEYS = "item int, content string, key binary, missed string"


class ImageFile(NamedTuple):
    name: str
    size: int
    modified: int | None  # nanoseconds; None if the storage keeps no time


def image_files(folder: str) -> Iterator[ImageFile]:
    """Yield the images of a folder in no order, by their suffix in any case.

    InputError if the folder is missing or holds no image, or if a name is not UTF-8.
    """
    filesystem, path = file_system(folder)
    if filesystem.get_file_info(path).type != fs.FileType.Directory:
        raise InputError(f"{folder}: no such folder of images")
    is_local = filesystem.type_name == "local"
    found = False
    for file in _local_files(path) if is_local else _remote_files(filesystem, path):
        if file.name.lower().endswith(SUFFIXES):
            if any("\ud800" <= character <= "\udfff" for character in file.name):
                raise InputError(f"{folder}: the name {file.name!a} is not UTF-8: rename the file")
            found = True
            yield file
    if not found:
        raise InputError(f"{folder}: no file of this folder ends in {' or '.join(SUFFIXES)}")


def folder_identity(folder: str, hashes: ContentHashes) -> str:
    """Return one number for the names and contents of a folder's images, wherever it lies.

    It is remembered with the names, sizes and modification times: while these stay the same, no
    image is read.
    """
    listing, num_files = _listing(folder)
    found = hashes.recall(folder, listing)
    if found is None:
        found, is_complete = _content_sum(folder, num_files)
        hashes.remember({folder: (listing if is_complete else None, found)})
    return found


def _listing(folder: str) -> tuple[str | None, int]:
    """Return one number for names, sizes and modification times, and the number of files.

    The first is None if a time is unknown. Sums of hashes need neither memory nor an order.
    """
    total, num_files, has_times = 0, 0, True
    for file in image_files(folder):
        total += _number(repr(tuple(file)))
        num_files += 1
        has_times &= file.modified is not None
    return _hex(total) if has_times else None, num_files


def _content_sum(folder: str, num_files: int) -> tuple[str, bool]:
    """Return one number for names and contents, and whether every image could be read."""
    filesystem, path = file_system(folder)
    files, total, num_read, is_complete = image_files(folder), 0, 0, True

    def progress() -> str:
        return f"{folder}: hashed {num_read:,} of {num_files:,} images"

    with step_progress(progress), ThreadPoolExecutor(HASH_THREADS) as pool:
        while names := [file.name for file in islice(files, FILES_PER_BATCH)]:
            contents = pool.map(partial(_hash_image, filesystem, path), names)
            for name, content_hash in zip(names, contents, strict=True):
                total += _number(f"{name}/{content_hash}")
                num_read += 1
                is_complete &= content_hash is not None
    return _hex(total), is_complete


def _hash_image(filesystem: fs.FileSystem, folder: str, name: str) -> str | None:
    """Return the SHA-256 of an image's bytes, None if it cannot be read."""
    try:
        with filesystem.open_input_stream(f"{folder}/{name}", compression=None) as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except (OSError, pa.ArrowException):
        return None


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest())


def _hex(total: int) -> str:
    return f"{total % 2**256:064x}"


def files_of_items(spark: SparkSession, folder: str) -> DataFrame:
    """Return DataFrame(item_id, content): every image of the folder, `content` is its URI.

    One task lists the folder. InputError if two files have the same item id.
    """
    one_row = spark.range(0, 1, numPartitions=1)
    files = one_row.mapInArrow(partial(_list_images, folder), "item_id string, content string")
    files = materialize(files.repartition("item_id"))
    pairs = files.groupBy("item_id").agg(F.sort_array(F.collect_list("content")).alias("contents"))
    if row := pairs.where(F.size("contents") > 1).orderBy("item_id").first():
        first, second = row.contents[:2]
        raise InputError(f"item {row.item_id} has two images, {first} and {second}: remove one")
    return files


def files_of_paths(items: DataFrame, folder: str) -> DataFrame:
    """Return DataFrame(item, content): `content` is the URI of the path in column image_url."""
    return items.select("item", "image_url").mapInArrow(
        partial(_resolve_paths, folder), "item int, content string"
    )


def _resolve_paths(folder: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        paths = batch.column("image_url").to_pylist()
        uris = [
            path if path.startswith("/") or "://" in path else join(folder, path) for path in paths
        ]
        columns = [batch.column("item"), pa.array(uris, pa.string())]
        yield pa.RecordBatch.from_arrays(columns, ["item", "content"])


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
    except (OSError, pa.ArrowException, InputError):  # also raised for a path that is no URI
        content = None
    if content is None:
        raise ImageError("unreadable file")
    return content


def decode_image(content: bytes) -> "Image.Image":
    """Return the image upright in RGB, transparent parts white; ImageError if it is not usable.

    Threads decode large images one at a time, which bounds their memory.
    """
    image = open_image(content)
    if max(image.size) < MIN_SIDE:
        raise ImageError("a single pixel")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError("too narrow")
    is_large = image.width * image.height > LARGE_PIXELS
    try:
        with _large_image if is_large else nullcontext():
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
            yield ImageFile(info.base_name, info.size, info.mtime_ns)


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
        "item_id": pa.array([Path(name).stem for name in names], pa.string()),
        "content": pa.array([join(folder, name) for name in names], pa.string()),
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
