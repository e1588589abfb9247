"""Events of a catalogue with the skew of real ones.

Items and users are long-tailed: a third of the users have each of a few hot items, and one user in
ten thousand has thousands of events. Events are drawn in chunks of users, so memory grows only by
8 bytes an item. The same seed gives the same events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.catalogue.order import Order
from mdsrec import schema, tables
from mdsrec.arrays import Counts, Floats
from mdsrec.errors import InputError

CHUNK_USERS = 1 << 16
EVENTS_OF_ITEM = 20  # on average
TAIL = 0.8  # the frequency of the n-th item is n^-TAIL
HOT_ITEMS, HOT_SHARE = 3, 0.3  # of the users
SHORTEST, LONGEST = 3, 5_000
MU, SIGMA = 1.8, 1.0  # of the log-normal number of a user's events: 13 on average
LONG_SHARE, LONG, LONG_TAIL = 1e-4, 1_000, 1.5
START, DAY = 1_483_228_800, 86_400  # 2017-01-01
EVERYBODY = 1 << 62


class Chunk(NamedTuple):
    """The events of some users, one user after the other."""

    first_user: int
    items: Counts
    lengths: Counts
    times: Counts

    @property
    def users(self) -> Counts:
        """Return the users of the chunk, not of its events."""
        return self.first_user + np.arange(len(self.lengths))


@dataclass(frozen=True)
class Catalogue:
    """Items, and events of as many users as are asked for, or as have so many events.

    The events of the last user are not cut. No history is longer than `longest`.
    """

    num_items: int
    num_users: int = EVERYBODY
    interactions: int = EVERYBODY
    longest: int = LONGEST
    seed: int = 0

    @classmethod
    def of_interactions(cls, interactions: int, seed: int = 0) -> "Catalogue":
        """Return a catalogue whose items have EVENTS_OF_ITEM events on average."""
        if interactions < 1000:
            raise InputError(f"--interactions {interactions}: must be at least 1000")
        num_items = max(100, interactions // EVENTS_OF_ITEM)
        return cls(num_items, interactions=interactions, seed=seed)

    @cached_property
    def order(self) -> Order:
        return Order(self.num_items)

    @cached_property
    def shares(self) -> Floats:
        """Share of the events of the items up to each rank of popularity."""
        shares: Floats = np.cumsum(np.arange(1.0, self.num_items + 1) ** -TAIL)
        shares /= shares[-1]
        return shares

    def chunks(self) -> Iterator[Chunk]:
        """Yield all events; the same in every call."""
        left, first_user = self.interactions, 0
        while left > 0 and first_user < self.num_users:
            chunk = self.chunk_at(first_user, left)
            yield chunk
            left -= len(chunk.items)
            first_user += len(chunk.lengths)

    def chunk_at(self, first_user: int, most: int = EVERYBODY) -> Chunk:
        """Return the chunk that begins with a user; its last user is that of event `most`."""
        rng = np.random.default_rng([self.seed, first_user])
        lengths = self._lengths(rng)[: self.num_users - first_user]
        lengths = lengths[: np.searchsorted(np.cumsum(lengths), most) + 1]
        return self._chunk(rng, first_user, lengths)

    def _chunk(self, rng: np.random.Generator, first_user: int, lengths: Counts) -> Chunk:
        ends = np.cumsum(lengths)
        ranks = np.searchsorted(self.shares, rng.random(ends[-1]))
        for hot in range(HOT_ITEMS):
            has_hot = rng.random(len(lengths)) < HOT_SHARE
            at = ends - lengths + (rng.random(len(lengths)) * lengths).astype(np.int64)
            ranks[at[has_hot]] = hot
        users = np.repeat(np.arange(len(lengths)), lengths)
        _, first = np.unique(users * self.num_items + ranks, return_index=True)
        kept = np.sort(first)  # a user's first event of each item
        lengths = np.bincount(users[kept], minlength=len(lengths))
        steps = rng.integers(1, DAY, len(kept))
        items = self.order.by_popularity(ranks[kept])
        return Chunk(first_user, items, lengths, START + _sums_per_user(steps, lengths))

    def _lengths(self, rng: np.random.Generator) -> Counts:
        usual = SHORTEST + rng.lognormal(MU, SIGMA, CHUNK_USERS)
        long = LONG * (1 + rng.pareto(LONG_TAIL, CHUNK_USERS))
        lengths = np.where(rng.random(CHUNK_USERS) < LONG_SHARE, long, usual)
        return np.minimum(lengths, self.longest).astype(np.int64)


def _sums_per_user(steps: Counts, lengths: Counts) -> Counts:
    """Return the cumulative sums of the steps of each user."""
    total = np.cumsum(steps)
    before = np.concatenate([[0], total])[np.cumsum(lengths) - lengths]
    sums: Counts = total - np.repeat(before, lengths)
    return sums


def write_sequences(uri: str, catalogue: Catalogue) -> tables.Manifest:
    """Write the table `sequences` at `uri` as one file, for a benchmark of one step of the ETL."""
    counters = {"items": catalogue.num_items}
    settings = {"interactions": catalogue.interactions, "seed": catalogue.seed}
    recipe = tables.Recipe(settings, {})
    batches = (sequence_rows(chunk).to_batches()[0] for chunk in catalogue.chunks())
    return tables.write_table(uri, batches, schema.SEQUENCES, recipe, counters)


def sequence_rows(chunk: Chunk) -> pa.Table:
    """Return the rows of `sequences` of a chunk: leave-one-out where a user has three events."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(chunk.lengths)]), pa.int32())
    held_out = held_out_events(chunk)
    columns = [
        chunk.users,
        ids("A", chunk.users, 12),
        pa.ListArray.from_arrays(offsets, pa.array(chunk.items, pa.int32())),
        pa.ListArray.from_arrays(offsets, pa.array(chunk.times)),
        pa.array(chunk.lengths - held_out, pa.int32()),
        pa.array(chunk.lengths - held_out // 2, pa.int32()),
    ]
    return pa.Table.from_arrays([pa.array(c) for c in columns], schema=schema.SEQUENCES)


def held_out_events(chunk: Chunk) -> Counts:
    """Return how many events of each user are held out: two, or none of fewer than three."""
    return np.where(chunk.lengths < 3, 0, 2)


def ids(before: str, numbers: Counts, digits: int) -> pa.Array:
    """Return ids of one length, so that their binary order is that of the numbers."""
    padded = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, "0")
    return pc.binary_join_element_wise(before, padded, "")
