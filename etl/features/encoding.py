"""One modality's vectors by an encoder: what the cache lacks is encoded in chunks, then every item
finds its vector by the hash of its content.
"""

import logging
from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.features import images, vector_cache
from etl.features.encoders import Encoder, TextEncoder, check_encoder, encoder_identity
from etl.features.vector_blocks import Placed
from etl.features.vector_cache import VectorCache
from etl.features.vision import Fetching, ImageEncoder
from etl.spark.progress import reporting
from etl.spark.session import materialized
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError
from mdsrec.tables import fingerprint

log = logging.getLogger("etl")

MOST_CHUNKS = 256  # unless a chunk would exceed its bounds
CHUNK = {"text": (128, 4096), "images": (64, 512)}  # bounds of what is encoded and stored together
OUTCOME = "key binary, missed string"


def cache_name(config: FeatureConfig) -> str:
    """The cache, below the data set, of all that an encoder makes of one kind of content."""
    what = [config.sees, *encoder_identity(str(config.encoder))]
    if config.sees == "text":
        what.append(f"max_tokens {config.max_tokens}")
    elif config.images == "url":
        what.append("by address")
    return f"encoded/{fingerprint(what)}"


def encoded(
    items: DataFrame, config: FeatureConfig, folder: str, num_tasks: int, name: str
) -> Placed:
    """Vectors of the items that have text or an image, encoded into the cache at `folder` where it
    lacks them. `name` stands in the log.
    """
    check_encoder(config)
    spark = items.sparkSession
    contents, unused = _contents(items, config)
    hashes = materialized(contents.select("item", "key", "missed"))
    cache = vector_cache.opened(spark, folder, num_tasks)
    keys = materialized(hashes.where(F.col("key").isNotNull()).select("key").distinct())
    new = materialized(keys.join(cache.places, "key", "left_anti"))
    num_new = new.count()
    num_cached = keys.count() - num_new
    log.info("%s: %s to encode, %s in the cache", name, f"{num_new:,}", f"{num_cached:,}")
    lacking = contents.join(new, "key", "left_semi").dropDuplicates(["key"])
    tried = _encode(lacking.select("key", "content"), num_new, config, cache, name)
    cache = vector_cache.extended(spark, cache, num_tasks)
    places = materialized(hashes.join(cache.places, "key"))
    missed = _missed(hashes, tried, places)
    width = _common_width(places, hashes.count() - sum(missed.values()), folder)
    counters = {
        "encoded": tried.where(F.col("missed").isNull()).count(),
        "cached": num_cached,
        "damaged_cache_files": len(cache.damaged),
        **unused,
        **{f"missed: {reason}": missed[reason] for reason in sorted(missed)},
    }
    return Placed(cache.files, places.select("item", "block", "row"), width, counters)


def _contents(items: DataFrame, config: FeatureConfig) -> tuple[DataFrame, dict[str, int]]:
    """DataFrame(item, content, key, missed): what the encoder sees of each item that has it, its
    hash, or why it cannot be had; and counters of what is not used.
    """
    if config.images is not None and config.images != "url":
        files = images.files_of_items(items.sparkSession, config.images)
        known = files.join(items.select("asin", "item"), "asin")
        return images.hashed(known), {"unknown_asins": files.count() - known.count()}
    content = F.col("text" if config.sees == "text" else "image_url")
    columns = {
        "content": content,
        "key": F.unhex(F.sha2(content.cast("binary"), 256)),
        "missed": F.lit(None).cast("string"),
    }
    return items.where(content.isNotNull()).withColumns(columns).select("item", *columns), {}


def _encode(
    lacking: DataFrame, num_lacking: int, config: FeatureConfig, cache: VectorCache, name: str
) -> DataFrame:
    """DataFrame(key, missed): every content, once its vector is in the cache or `missed` says why
    there is none.

    A task encodes one chunk. Chunks are parted by hash, so they are the same for any partitioning.
    """
    spark = lacking.sparkSession
    if not num_lacking:
        return spark.createDataFrame([], OUTCOME)
    smallest, largest = CHUNK[config.sees]
    size = min(largest, max(smallest, num_lacking // MOST_CHUNKS))
    chunks = -(-num_lacking // size)
    encoder = _encoder(config, min(chunks, spark.sparkContext.defaultParallelism))
    encode = partial(_encode_chunk, encoder, cache.files.folder)
    rows = (
        lacking.repartitionById(chunks, F.pmod(F.xxhash64("key"), F.lit(chunks)).cast("int"))
        .sortWithinPartitions("key")
        .mapInArrow(encode, OUTCOME)
    )
    with reporting(lambda: _how_far(name, cache, num_lacking)):
        return materialized(rows)


def _how_far(name: str, cache: VectorCache, total: int) -> str:
    return f"{name}: encoded {vector_cache.num_vectors(cache.added()):,} of {total:,}"


def _encoder(config: FeatureConfig, num_tasks: int) -> Encoder:
    """`num_tasks` run at a time, and share the rate of requests."""
    encoder = str(config.encoder)
    if config.sees == "text":
        return TextEncoder(encoder, config.max_tokens)
    fetching = Fetching.of(config, num_tasks) if config.images == "url" else None
    return ImageEncoder(encoder, fetching)


def _encode_chunk(
    encoder: Encoder, folder: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    held = [batch for batch in batches if batch.num_rows]
    if not held:
        return
    chunk = pa.Table.from_batches(held).combine_chunks().to_batches()[0]
    vectors, missed = encoder.encode(chunk.column("content").to_pylist())
    if not np.isfinite(vectors).all():
        raise InputError(f"encoder {encoder.name!r} gives vectors that hold a NaN or infinity")
    outcome = pa.RecordBatch.from_arrays(
        [chunk.column("key"), pa.array(missed, pa.string())], ["key", "missed"]
    )
    if len(vectors):
        having = outcome.column("key").filter(outcome.column("missed").is_null())
        vector_cache.write_file(folder, having, vectors)
    yield outcome


def _missed(hashes: DataFrame, tried: DataFrame, places: DataFrame) -> dict[str, int]:
    """Items that have no vector although they have text or an image, by reason."""
    failed = tried.where(F.col("missed").isNotNull())
    unread = hashes.where(F.col("missed").isNotNull()).select("item", "missed")
    rows = unread.unionAll(hashes.select("item", "key").join(failed, "key").drop("key"))
    counts = rows.join(places, "item", "left_anti").groupBy("missed").count().collect()
    return {row.missed: row["count"] for row in counts}


def _common_width(places: DataFrame, expected: int, folder: str) -> int:
    """The width of all vectors, 0 where there are none; InputError unless `expected` are there."""
    found = places.agg(F.count("*").alias("rows"), F.max("width").alias("width")).first()
    assert found is not None
    if found.rows != expected:
        raise InputError(
            f"{folder}: {expected} vectors were written, {found.rows} arrived: every node must see "
            "the same root; put it on storage that they share"
        )
    return int(found.width or 0)
