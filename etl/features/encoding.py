"""Vectors of one modality by an encoder.

Contents that are not in the cache are encoded in chunks. Then every item finds its vector by the
hash of its content.
"""

import logging
from collections.abc import Iterator
from functools import partial
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from etl.catalogue.content_hashes import ContentHashes
from etl.features import images, vector_cache
from etl.features.encoders import Encoder, TextEncoder, encoder_identity
from etl.features.placeholders import NAMED_PLACEHOLDER, drop_shared, is_named_placeholder
from etl.features.vector_blocks import VectorLocations
from etl.features.vector_cache import VectorCache
from etl.features.vision import DownloadSettings, ImageEncoder
from etl.spark.progress import step_progress
from etl.spark.rows import empty_frame
from etl.spark.session import materialize, tasks_per_executor
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError
from mdsrec.tables import fingerprint

log = logging.getLogger("etl")

MAX_CHUNKS = 256  # exceeded only when chunks have their largest size
CHUNK_SIZES = {"text": (128, 4096), "images": (64, 512)}  # smallest, largest; a chunk is one file
OUTCOME = pa.schema({"key": pa.binary(), "missed": pa.string()})
ADDRESS = "^https?://"
PIXELS = "upright, 8 bits"  # changes when the same file gives an encoder other pixels


def cache_name(config: FeatureConfig, hashes: ContentHashes) -> str:
    """Return the name of the cache for one encoder and kind of content, in the folder of caches."""
    identity = [config.sees, *encoder_identity(str(config.encoder), hashes)]
    if config.sees == "text":
        identity.append(f"max_tokens {config.max_tokens}")
    else:
        identity.append(PIXELS)
        if config.images == "url":
            identity.append("by address")
    return f"encoded/{fingerprint(identity)}"


def encode_items(
    items: DataFrame,
    config: FeatureConfig,
    folder: str,
    num_tasks: int,
    name: str,
    image_folder: str | None = None,
) -> VectorLocations:
    """Encode what the cache at `folder` lacks, and return the vectors of the items.

    Items without text or an image have none. `name` is that of the table, for the log. With an
    `image_folder`, an image_url may also be the path of a file, relative to that folder.
    """
    spark = items.sparkSession
    contents, unused = _contents(items, config, image_folder)
    hashes = materialize(contents.select("item", "key", "missed"))
    cache = vector_cache.open_cache(spark, folder, num_tasks)
    keys = materialize(hashes.where(F.col("key").isNotNull()).select("key").distinct())
    new = materialize(keys.join(cache.locations, "key", "left_anti"))
    num_new = new.count()
    num_cached = keys.count() - num_new
    log.info("%s: %s to encode, %s in the cache", name, f"{num_new:,}", f"{num_cached:,}")
    new_contents = contents.join(new, "key", "left_semi").dropDuplicates(["key"])
    new_contents = new_contents.select("key", "content")
    reads_paths = image_folder is not None
    outcomes = _encode(new_contents, num_new, config, cache, name, reads_paths)
    cache = vector_cache.add_new_files(spark, cache, num_tasks)
    locations = materialize(hashes.join(cache.locations, "key"))
    missed = _count_missed(hashes, outcomes, locations)
    width = _common_width(locations, hashes.count() - sum(missed.values()), folder)
    shared: dict[str, int] = {}
    if config.sees == "images":
        locations, shared = drop_shared(locations, config.max_shared)
    counters = {
        "encoded": outcomes.where(F.col("missed").isNull()).count(),
        "cached": num_cached,
        "damaged_cache_files": len(cache.damaged),
        **unused,
        **{f"missed: {reason}": missed[reason] for reason in sorted(missed)},
        **shared,
    }
    return VectorLocations(cache.files, locations.select("item", "block", "row"), width, counters)


def _contents(
    items: DataFrame, config: FeatureConfig, image_folder: str | None
) -> tuple[DataFrame, dict[str, int]]:
    """Return DataFrame(item, content, key, missed), and counters of unused images.

    `key` is the hash of the content; if the content cannot be read it is null and `missed` is the
    reason.
    """
    if config.images is not None and config.images != "url":
        files = images.files_of_items(items.sparkSession, config.images)
        known = files.join(items.select("item_id", "item"), "item_id")
        return images.with_keys(known), {"unknown_ids": files.count() - known.count()}
    content = F.col("text" if config.sees == "text" else "image_url")
    is_placeholder = F.lit(config.sees == "images") & is_named_placeholder(content)
    columns = {
        "content": content,
        "key": F.when(~is_placeholder, F.unhex(F.sha2(content.cast("binary"), 256))),
        "missed": F.when(is_placeholder, F.lit(NAMED_PLACEHOLDER)),
    }
    filled = items.where(content.isNotNull())
    if config.sees == "text" or image_folder is None:
        return filled.withColumns(columns).select("item", *columns), {}
    is_address = F.lower(content).rlike(ADDRESS)
    addresses = filled.where(is_address).withColumns(columns).select("item", *columns)
    paths = images.files_of_paths(filled.where(~is_address), image_folder)
    return addresses.unionAll(images.with_keys(paths)), {}


def _encode(
    contents: DataFrame,
    num_contents: int,
    config: FeatureConfig,
    cache: VectorCache,
    name: str,
    reads_paths: bool,
) -> DataFrame:
    """Encode all contents and return DataFrame(key, missed).

    `missed` is null once the vector is in the cache, otherwise the reason why there is none.
    Contents are assigned to chunks by hash, so chunks are the same for any partitioning. A task
    encodes one chunk. Chunks of the smallest size are shared among as few tasks as run at a time,
    because each starts a process that loads the encoder.
    """
    spark = contents.sparkSession
    if not num_contents:
        return empty_frame(spark, OUTCOME)
    smallest, largest = CHUNK_SIZES[config.sees]
    size = min(largest, max(smallest, num_contents // MAX_CHUNKS))
    chunks = -(-num_contents // size)
    slots = spark.sparkContext.defaultParallelism
    tasks = min(chunks, slots) if size == smallest else chunks
    encoder = _encoder(config, min(tasks, tasks_per_executor(spark)), reads_paths)
    encode = partial(_encode_chunks, encoder, cache.files.folder)
    chunk = F.pmod(F.xxhash64("key"), F.lit(chunks)).cast("int")
    rows = (
        contents.withColumn("chunk", chunk)
        .repartitionById(tasks, F.col("chunk") % tasks)
        .sortWithinPartitions("chunk", "key")
        .mapInArrow(encode, from_arrow_schema(OUTCOME))
    )
    with step_progress(lambda: _progress_line(name, cache, num_contents)):
        return materialize(rows)


def _progress_line(name: str, cache: VectorCache, total: int) -> str:
    return f"{name}: encoded {vector_cache.num_vectors(cache.new_files()):,} of {total:,}"


def _encoder(config: FeatureConfig, num_tasks: int, reads_paths: bool) -> Encoder:
    """Return the encoder for `num_tasks` of an executor, which share its limit of requests."""
    encoder = str(config.encoder)
    if config.sees == "text":
        return TextEncoder(encoder, config.max_tokens)
    download = DownloadSettings.of(config, num_tasks) if config.images == "url" else None
    return ImageEncoder(encoder, download, reads_paths)


def _encode_chunks(
    encoder: Encoder, folder: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Encode the chunks of a task, which holds the contents of one of them at a time."""
    parts = (part for batch in batches for part in _split_by_chunk(batch))
    for _, chunk in groupby(parts, key=lambda part: part.column("chunk")[0]):
        yield _encode_chunk(encoder, folder, pa.Table.from_batches(chunk))


def _split_by_chunk(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split a batch, which is ordered by chunk, where the next chunk begins."""
    chunk = batch.column("chunk").to_numpy()
    ends = [*(np.flatnonzero(np.diff(chunk)) + 1), len(chunk)] if len(chunk) else []
    for start, end in pairwise([0, *ends]):
        yield batch.slice(start, end - start)


def _encode_chunk(encoder: Encoder, folder: str, chunk: pa.Table) -> pa.RecordBatch:
    """Encode a chunk, write its vectors as one file of the cache, and return the outcome."""
    keys = chunk.column("key").combine_chunks()
    vectors, missed = encoder.encode(chunk.column("content").to_pylist())
    if not np.isfinite(vectors).all():
        raise InputError(f"encoder {encoder.name!r} returns vectors with a NaN or infinity")
    outcome = pa.RecordBatch.from_arrays([keys, pa.array(missed, pa.string())], ["key", "missed"])
    if len(vectors):
        keys = outcome.column("key").filter(outcome.column("missed").is_null())
        vector_cache.write_cache_file(folder, keys, vectors)
    return outcome


def _count_missed(hashes: DataFrame, outcomes: DataFrame, locations: DataFrame) -> dict[str, int]:
    """Count the items that have text or an image but no vector, by reason."""
    failed = outcomes.where(F.col("missed").isNotNull())
    unread = hashes.where(F.col("missed").isNotNull()).select("item", "missed")
    rows = unread.unionAll(hashes.select("item", "key").join(failed, "key").drop("key"))
    counts = rows.join(locations, "item", "left_anti").groupBy("missed").count().collect()
    return {row.missed: row["count"] for row in counts}


def _common_width(locations: DataFrame, expected: int, folder: str) -> int:
    """Return the width of the vectors, 0 if there are none; InputError if some are missing."""
    found = locations.agg(F.count("*").alias("rows"), F.max("width").alias("width")).first()
    assert found is not None
    if found.rows != expected:
        raise InputError(
            f"{folder}: {found.rows} of {expected} vectors found: put the root, or features.cache, "
            "on storage that all nodes share"
        )
    return int(found.width or 0)
