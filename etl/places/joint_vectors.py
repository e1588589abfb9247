"""The vectors of several modalities side by side, read by ranges of items."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from etl.graph.unit_vectors import SmoothedVectors, UnitVectors, unit_rows
from etl.graph.whitening import Whitening
from etl.spark.vector_table import Vectors
from mdsrec.arrays import Ints


@dataclass(frozen=True)
class JointVectors:
    """Each item's vectors in one row, with zeros for a modality that it lacks."""

    parts: tuple[SmoothedVectors | UnitVectors, ...]

    @property
    def width(self) -> int:
        return sum(part.width for part in self.parts)

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """Return the columns of each part."""
        ends = np.cumsum([part.width for part in self.parts]).tolist()
        return tuple(map(slice, [0, *ends[:-1]], ends))

    def read(self, first: int, last: int) -> tuple[Ints, Vectors]:
        """Return the items of [first, last) that have a modality, and their rows."""
        found = [part.read(first, last) for part in self.parts]
        items = np.unique(np.concatenate([having for having, _ in found]))
        rows = np.zeros((len(items), self.width), np.float32)
        for columns, (having, vectors) in zip(self.columns, found, strict=True):
            rows[np.searchsorted(items, having), columns] = vectors
        return items, rows


def searched_vectors(
    smoothed: Sequence[SmoothedVectors], sample: Vectors, whiten: bool
) -> tuple[JointVectors, Vectors]:
    """Return the vectors among which neighbors are searched, and those of a sample [n, d].

    They are whitened if `whiten` is set. `sample` has rows of Ebar; their lengths become 1.
    """
    units, searched = [], np.zeros_like(sample)
    for part, columns in zip(smoothed, JointVectors(tuple(smoothed)).columns, strict=True):
        has = sample[:, columns].any(axis=1)
        rows = sample[has, columns]
        units.append(UnitVectors(part, Whitening.fit(rows) if whiten and has.any() else None))
        searched[has, columns] = units[-1].scale(rows.astype(np.float64))
        sample[has, columns] = unit_rows(rows.astype(np.float64))
    return JointVectors(tuple(units)), searched
