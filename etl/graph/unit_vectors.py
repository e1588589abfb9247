"""Ebar of Eq. 3 in rows of length 1: what the cosines of Eq. 4 are taken of."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import SparkSession

from etl.spark.blocks import block_ranges, block_size, map_blocks
from etl.spark.vector_table import Vectors, VectorTable
from mdsrec.arrays import Ints

SPREAD = 2_654_435_761  # Knuth's multiplier: consecutive ids lie far apart modulo 2^32
SAMPLED = "items binary, vectors binary"


@dataclass(frozen=True)
class UnitVectors:
    """Ebar = E + mu N(O) E, each row divided by its length."""

    features: VectorTable
    propagated: VectorTable | None  # none for mu = 0
    mu: float

    @property
    def width(self) -> int:
        return self.features.width

    def read(self, first: int, last: int) -> tuple[Ints, Vectors]:
        """Items first <= item < last that have the modality, and their rows."""
        items, vectors = self.features.read(first, last)
        Ebar = vectors.astype(np.float64)
        if self.propagated is not None:
            met, moved = self.propagated.read(first, last)
            Ebar[np.searchsorted(items, met)] += self.mu * moved.astype(np.float64)
        return items, unit_rows(Ebar).astype(np.float32)


def unit_rows(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows of length 1; a row of zeros stays, its cosine with anything is 0."""
    norm = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.asarray(np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0))


def sampled(
    spark: SparkSession,
    table: VectorTable | UnitVectors,
    num_items: int,
    share: float,
    num_tasks: int,
) -> tuple[Ints, Vectors]:
    """About `share` of the rows, by a hash of the item: the same for any partitioning."""
    blocks = list(block_ranges(num_items, block_size(table.width)))
    sample = partial(_sample_block, table, blocks, share)
    rows = map_blocks(spark, len(blocks), sample, SAMPLED, num_tasks).toArrow()
    items = [np.frombuffer(part.as_buffer(), np.int64) for part in rows.column("items")]
    vectors = [np.frombuffer(part.as_buffer(), np.float32) for part in rows.column("vectors")]
    found, matrix = np.concatenate(items), np.concatenate(vectors).reshape(-1, table.width)
    order = np.argsort(found)
    return found[order], matrix[order]


def chosen(items: Ints, share: float) -> npt.NDArray[np.bool_]:
    """Whether each item is in a sample of `share`; a larger share only adds items."""
    return (items * SPREAD) % 2**32 < share * 2**32


def _sample_block(
    table: VectorTable | UnitVectors, blocks: list[tuple[int, int]], share: float, number: int
) -> Iterator[pa.RecordBatch]:
    items, vectors = table.read(*blocks[number])
    kept = chosen(items, share)
    row = {"items": [items[kept].tobytes()], "vectors": [vectors[kept].tobytes()]}
    yield pa.RecordBatch.from_pydict(row)
