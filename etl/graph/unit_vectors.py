"""Rows of Ebar (Eq. 3) scaled to length 1, whose inner products are the cosines of Eq. 4."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import SparkSession

from etl.graph.whitening import Whitening
from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.vector_table import Vectors, VectorTable
from mdsrec.arrays import Floats, Ints

HASH_MULTIPLIER = 2_654_435_761  # Knuth's: scatters consecutive ids modulo 2^32
SAMPLED = "items binary, vectors binary"


class StoredVectors(Protocol):
    """Vectors of items that a task reads by ranges."""

    @property
    def width(self) -> int: ...

    def read(self, first: int, last: int) -> tuple[Ints, npt.NDArray[np.floating]]: ...


@dataclass(frozen=True)
class SmoothedVectors:
    """Ebar = E + mu N(O) E (Eq. 3)."""

    features: VectorTable
    propagated: VectorTable | None  # None for mu = 0
    mu: float

    @property
    def width(self) -> int:
        return self.features.width

    def read(self, first: int, last: int) -> tuple[Ints, Floats]:
        """Return the items of [first, last) that have the modality, and their rows."""
        items, vectors = self.features.read(first, last)
        Ebar = vectors.astype(np.float64)
        if self.propagated is not None:
            changed, propagated = self.propagated.read(first, last)
            Ebar[np.searchsorted(items, changed)] += self.mu * propagated.astype(np.float64)
        return items, Ebar


@dataclass(frozen=True)
class UnitVectors:
    """Rows of Ebar, whitened or not, divided by their lengths."""

    smoothed: SmoothedVectors
    whitening: Whitening | None

    @property
    def width(self) -> int:
        return self.smoothed.width

    def read(self, first: int, last: int) -> tuple[Ints, Vectors]:
        """Return the items of [first, last) that have the modality, and their rows."""
        items, rows = self.smoothed.read(first, last)
        return items, self.scale(rows)

    def scale(self, rows: Floats) -> Vectors:
        """Return rows of Ebar, whitened or not, divided by their lengths."""
        return unit_rows(rows if self.whitening is None else self.whitening(rows)).astype(
            np.float32
        )


def unit_rows(rows: Floats) -> Floats:
    """Divide each row by its length; a row of zeros stays, so its cosines are 0."""
    norm = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.asarray(np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0))


def sample_vectors(
    spark: SparkSession,
    table: StoredVectors,
    num_items: int,
    share: float,
    num_tasks: int,
) -> tuple[Ints, Vectors]:
    """Return about `share` of the items and their vectors, the same for any partitioning."""
    blocks = list(block_ranges(num_items, block_size(table.width)))
    sample = partial(_sample_block, table, blocks, share)
    rows = map_blocks(spark, len(blocks), sample, SAMPLED, num_tasks).toArrow()
    items = [np.frombuffer(part.as_buffer(), np.int64) for part in rows.column("items")]
    vectors = [np.frombuffer(part.as_buffer(), np.float32) for part in rows.column("vectors")]
    all_items, matrix = np.concatenate(items), np.concatenate(vectors).reshape(-1, table.width)
    order = np.argsort(all_items)
    return all_items[order], matrix[order]


def in_sample(items: Ints, share: float) -> npt.NDArray[np.bool_]:
    """Return True for the items in a sample of `share`, chosen by a hash of their ids.

    A larger share contains the smaller ones.
    """
    return (items * HASH_MULTIPLIER) % 2**32 < share * 2**32


def _sample_block(
    table: StoredVectors,
    blocks: list[tuple[int, int]],
    share: float,
    number: int,
) -> Iterator[pa.RecordBatch]:
    items, vectors = table.read(*blocks[number])
    sampled = in_sample(items, share)
    row = {
        "items": [items[sampled].tobytes()],
        "vectors": [vectors[sampled].astype(np.float32).tobytes()],
    }
    yield pa.RecordBatch.from_pydict(row)
