"""Vectors in groups around shared means, drawn in float32 block by block."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from etl.spark.vector_table import Vectors
from mdsrec.arrays import Counts

MEMBERS = 500  # of a group, on average
TOPICS, RANK = 50, 24  # groups are around topics; inside, they differ most in RANK directions
AROUND_TOPIC, INSIDE, NOISE = 0.8, 0.9, 0.3  # standard deviations


@dataclass(frozen=True)
class Groups:
    """`num_groups` means of vectors."""

    num_groups: int
    width: int
    seed: int

    @classmethod
    def of(cls, num_vectors: int, width: int, seed: int) -> "Groups":
        """Return as many groups as so many vectors need."""
        return cls(max(TOPICS, num_vectors // MEMBERS), width, seed)

    @cached_property
    def means(self) -> Vectors:
        rng = self._generator(0)
        topics = rng.standard_normal((TOPICS, self.width), np.float32)
        around = rng.standard_normal((self.num_groups, self.width), np.float32)
        return topics[rng.integers(TOPICS, size=self.num_groups)] + AROUND_TOPIC * around

    @cached_property
    def directions(self) -> Vectors:
        rank = min(RANK, self.width)
        drawn = self._generator(1).standard_normal((rank, self.width), np.float32)
        return drawn * np.float32(INSIDE / rank**0.5)

    def draw(self, groups: Counts, block: int) -> Vectors:
        """Return a vector of each of these groups [n, width]; `block` seeds the random numbers."""
        rng = self._generator(2, block)
        vectors = rng.standard_normal((len(groups), self.width), np.float32)
        vectors *= np.float32(NOISE)
        inside = rng.standard_normal((len(groups), len(self.directions)), np.float32)
        vectors += inside @ self.directions
        vectors += self.means[groups]
        return vectors

    def unequal(self, count: int, block: int) -> Counts:
        """Draw groups, of which the n-th has n^-1/2 times the members of the first."""
        drawn = self._generator(3, block).random(count)
        return np.minimum((drawn**2 * self.num_groups).astype(np.int64), self.num_groups - 1)

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])
