"""Images of items: a folder of files named ASIN.jpg, and bytes -> pixels."""

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.features.download import MissedError
from etl.spark.session import materialized, num_partitions
from mdsrec.errors import InputError
from mdsrec.files import file_system, read_bytes

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
MAX_PIXELS = 64 << 20
MAX_ASPECT = 100  # longer side to shorter: such an image grows when its shorter side is scaled up
LISTED = 10_000  # files in a batch
HASHED = "item int, content string, key binary, missed string"


class ImageFile(NamedTuple):
    name: str
    size: int
    modified: int  # nanoseconds


def image_files(folder: str) -> Iterator[ImageFile]:
    """The images of a folder in no order, by suffix in any case; InputError where there is none."""
    filesystem, path = file_system(folder)
    if filesystem.get_file_info(path).type != fs.FileType.Directory:
        raise InputError(f"{folder}: no such folder of images")
    found = False
    for file in _local(path) if filesystem.type_name == "local" else _remote(filesystem, path):
        if file.name.lower().endswith(SUFFIXES):
            found = True
            yield file
    if not found:
        raise InputError(f"{folder}: no file of this folder ends in {' or '.join(SUFFIXES)}")


def folder_identity(folder: str) -> str:
    """Names, sizes and times of change of a folder's images in one number: a sum of hashes, so that
    nothing has to be held or sorted.
    """
    total = 0
    for file in image_files(folder):
        total += int.from_bytes(hashlib.sha256(repr(tuple(file)).encode()).digest())
    return f"{total % 2**256:064x}"


def files_of_items(spark: SparkSession, folder: str) -> DataFrame:
    """DataFrame(asin, content): every image of the folder, content its URI; one task lists it."""
    one = spark.range(0, 1, numPartitions=1)
    files = one.mapInArrow(partial(_list, folder), "asin string, content string")
    files = materialized(files.repartition("asin"))
    pairs = files.groupBy("asin").agg(F.sort_array(F.collect_list("content")).alias("contents"))
    if row := pairs.where(F.size("contents") > 1).orderBy("asin").first():
        first, second = row.contents[:2]
        raise InputError(f"asin {row.asin} has two images, {first} and {second}: remove one")
    return files


def hashed(files: DataFrame) -> DataFrame:
    """DataFrame(item, content) -> (item, content, key, missed): key is the SHA-256 of the file, or
    null and `missed` says why.
    """
    spread = files.repartition(num_partitions(files.sparkSession), "item")
    return materialized(spread.select("item", "content").mapInArrow(_hash, HASHED))


def read_file(uri: str) -> bytes:
    """The file's bytes; MissedError where it cannot be read."""
    try:
        content = read_bytes(uri)
    except (OSError, pa.ArrowException):
        content = None
    if content is None:
        raise MissedError("unreadable file")
    return content


def decoded(content: bytes) -> "Image.Image":
    """The image in RGB, transparent parts white; MissedError says why there is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise MissedError("not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MissedError("too many pixels") from None
    except Exception:  # decoders raise many kinds
        raise MissedError("broken image") from None
    if image.width * image.height > MAX_PIXELS:
        raise MissedError("too many pixels")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise MissedError("too narrow")
    try:
        return _rgb(image)
    except Exception:
        raise MissedError("broken image") from None


def _rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _local(path: str) -> Iterator[ImageFile]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file():
                status = entry.stat()
                yield ImageFile(entry.name, status.st_size, status.st_mtime_ns)


def _remote(filesystem: fs.FileSystem, path: str) -> Iterator[ImageFile]:
    for info in filesystem.get_file_info(fs.FileSelector(path)):
        if info.type == fs.FileType.File:
            yield ImageFile(info.base_name, info.size, info.mtime_ns or 0)


def _list(folder: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _ in batches:
        names: list[str] = []
        for file in image_files(folder):
            names.append(file.name)
            if len(names) == LISTED:
                yield _named(folder, names)
                names = []
        yield _named(folder, names)


def _named(folder: str, names: list[str]) -> pa.RecordBatch:
    columns = {
        "asin": pa.array([Path(name).stem for name in names], pa.string()),
        "content": pa.array([f"{folder.rstrip('/')}/{name}" for name in names], pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)


def _hash(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        keys: list[bytes | None] = []
        missed: list[str | None] = []
        for uri in batch.column("content").to_pylist():
            key, reason = None, None
            try:
                key = hashlib.sha256(read_file(uri)).digest()
            except MissedError as error:
                reason = str(error)
            keys.append(key)
            missed.append(reason)
        columns = [*batch.columns, pa.array(keys, pa.binary()), pa.array(missed, pa.string())]
        yield pa.RecordBatch.from_arrays(columns, ["item", "content", "key", "missed"])
