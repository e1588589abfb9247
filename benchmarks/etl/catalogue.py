"""A synthetic catalogue of any size with the skew of real ones.

Items and users are long-tailed: a third of the users have each of a few hot items, and one user in
ten thousand has thousands of events. Events are drawn in chunks of users, so memory does not grow
with the size. The same seed gives the same events.
"""

import argparse
import gzip
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from etl.synthetic.vocabulary import MATERIALS, QUALITIES, TOPICS
from mdsrec import schema, tables
from mdsrec.errors import InputError

Ints = npt.NDArray[np.int64]

CHUNK_USERS = 1 << 16
EVENTS_OF_ITEM = 20  # on average
TAIL = 0.8  # the frequency of the n-th item is n^-TAIL
HOT_ITEMS, HOT_SHARE = 3, 0.3  # of the users
SHORTEST, LONGEST = 3, 5_000
MU, SIGMA = 1.8, 1.0  # of the log-normal number of a user's events: 13 on average
LONG_SHARE, LONG, LONG_TAIL = 1e-4, 1_000, 1.5
START, DAY = 1_483_228_800, 86_400  # 2017-01-01


class Chunk(NamedTuple):
    """The events of some users, one user after the other."""

    first_user: int
    items: Ints
    lengths: Ints
    times: Ints


class Catalogue:
    """A catalogue of about `interactions` events; the events of the last user are not cut."""

    def __init__(self, interactions: int, seed: int = 0) -> None:
        if interactions < 1000:
            raise InputError(f"--interactions {interactions}: must be at least 1000")
        self.interactions = interactions
        self.seed = seed
        self.num_items = max(100, interactions // EVENTS_OF_ITEM)

    @cached_property
    def by_popularity(self) -> Ints:
        """Item indices, the most frequent first."""
        return np.random.default_rng(self.seed).permutation(self.num_items)

    @cached_property
    def shares(self) -> npt.NDArray[np.float64]:
        """Share of the events of the items up to each index of `by_popularity`."""
        weight = np.arange(1.0, self.num_items + 1) ** -TAIL
        shares: npt.NDArray[np.float64] = np.cumsum(weight) / weight.sum()
        return shares

    def chunks(self) -> Iterator[Chunk]:
        """Yield all events; the same in every call."""
        left, first_user = self.interactions, 0
        while left > 0:
            rng = np.random.default_rng([self.seed, first_user])
            lengths = _lengths(rng)
            lengths = lengths[: np.searchsorted(np.cumsum(lengths), left) + 1]
            chunk = self._chunk(rng, first_user, lengths)
            yield chunk
            left -= len(chunk.items)
            first_user += len(lengths)

    def _chunk(self, rng: np.random.Generator, first_user: int, lengths: Ints) -> Chunk:
        ends = np.cumsum(lengths)
        popularity_index = np.searchsorted(self.shares, rng.random(ends[-1]))
        for hot in range(HOT_ITEMS):
            has_hot = rng.random(len(lengths)) < HOT_SHARE
            at = ends - lengths + (rng.random(len(lengths)) * lengths).astype(np.int64)
            popularity_index[at[has_hot]] = hot
        users = np.repeat(np.arange(len(lengths)), lengths)
        _, first = np.unique(users * self.num_items + popularity_index, return_index=True)
        kept = np.sort(first)  # a user's first event of each item
        lengths = np.bincount(users[kept], minlength=len(lengths))
        steps = rng.integers(1, DAY, len(kept))
        items = self.by_popularity[popularity_index[kept]]
        return Chunk(first_user, items, lengths, START + _sums_per_user(steps, lengths))


def _lengths(rng: np.random.Generator) -> Ints:
    usual = SHORTEST + rng.lognormal(MU, SIGMA, CHUNK_USERS)
    long = LONG * (1 + rng.pareto(LONG_TAIL, CHUNK_USERS))
    lengths = np.where(rng.random(CHUNK_USERS) < LONG_SHARE, long, usual)
    return np.minimum(lengths, LONGEST).astype(np.int64)


def _sums_per_user(steps: Ints, lengths: Ints) -> Ints:
    """Return the cumulative sums of the steps of each user."""
    total = np.cumsum(steps)
    before = np.concatenate([[0], total])[np.cumsum(lengths) - lengths]
    sums: Ints = total - np.repeat(before, lengths)
    return sums


def write_sequences(uri: str, catalogue: Catalogue) -> tables.Manifest:
    """Write the table `sequences` at `uri`."""
    counters = {"items": catalogue.num_items}
    settings = {"interactions": catalogue.interactions, "seed": catalogue.seed}
    recipe = tables.Recipe(settings, {})
    batches = (_sequence_rows(chunk) for chunk in catalogue.chunks())
    return tables.write_table(uri, batches, schema.SEQUENCES, recipe, counters)


def _sequence_rows(chunk: Chunk) -> pa.RecordBatch:
    users = chunk.first_user + np.arange(len(chunk.lengths))
    offsets = pa.array(np.concatenate([[0], np.cumsum(chunk.lengths)]), pa.int32())
    held_out = np.where(chunk.lengths < 3, 0, 2)
    columns: dict[str, Any] = {
        "user": users,
        "user_id": _ids("A", users, 12),
        "items": pa.ListArray.from_arrays(offsets, pa.array(chunk.items, pa.int32())),
        "times": pa.ListArray.from_arrays(offsets, pa.array(chunk.times)),
        "train_end": pa.array(chunk.lengths - held_out, pa.int32()),
        "valid_end": pa.array(chunk.lengths - held_out // 2, pa.int32()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=schema.SEQUENCES)


def write_raw(folder: Path, catalogue: Catalogue) -> dict[str, int]:
    """Write reviews.json.gz and metadata.json.gz in the raw format of 2018.

    Return the numbers of users, items and reviews.
    """
    users = reviews = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / "reviews.json.gz", "wb", 1) as file:
            for chunk in catalogue.chunks():
                file.write(_lines(_review_columns(chunk)))
                users += len(chunk.lengths)
                reviews += len(chunk.items)
        with gzip.open(folder / "metadata.json.gz", "wb", 1) as file:
            for first in range(0, catalogue.num_items, CHUNK_USERS):
                items = np.arange(first, min(first + CHUNK_USERS, catalogue.num_items))
                file.write(_lines(_record_columns(items, catalogue.seed)))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None
    return {"users": users, "items": catalogue.num_items, "reviews": reviews}


def _review_columns(chunk: Chunk) -> dict[str, pa.Array]:
    users = chunk.first_user + np.repeat(np.arange(len(chunk.lengths)), chunk.lengths)
    return {
        "reviewerID": _ids('"A', users, 12, '"'),
        "asin": _ids('"B', chunk.items, 9, '"'),
        "unixReviewTime": pa.array(chunk.times).cast(pa.string()),
    }


def _record_columns(items: Ints, seed: int) -> dict[str, pa.Array]:
    rng = np.random.default_rng([seed, int(items[0])])
    kinds = [(kind, topic) for topic in TOPICS for kind in topic.kinds]
    words = [" ".join(topic.words[:2]) for _, topic in kinds]
    kind = rng.integers(len(kinds), size=len(items))
    adjectives = _draw(rng, QUALITIES, items), _draw(rng, MATERIALS, items)
    titles = pc.binary_join_element_wise(
        *adjectives, pa.array([k for k, _ in kinds]).take(kind), " "
    )
    descriptions = pc.binary_join_element_wise(titles, pa.array(words).take(kind), " for ")
    return {
        "asin": _ids('"B', items, 9, '"'),
        "title": pc.binary_join_element_wise('"', titles, '"', ""),
        "description": pc.binary_join_element_wise('["', descriptions, '"]', ""),
    }


def _draw(rng: np.random.Generator, values: tuple[str, ...], items: Ints) -> pa.Array:
    return pa.array(values).take(pa.array(rng.integers(len(values), size=len(items))))


def _ids(before: str, numbers: Ints, digits: int, after: str = "") -> pa.Array:
    padded = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, "0")
    return pc.binary_join_element_wise(before, padded, after, "")


def _lines(columns: dict[str, pa.Array]) -> bytes:
    """Return one JSON object per row; the columns hold JSON values."""
    values = [v for key, column in columns.items() for v in (f', "{key}": ', column)]
    rows = pc.binary_join_element_wise("{" + values[0][2:], *values[1:], "}\n", "")
    return "".join(rows.to_pylist()).encode()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the folder to write to")
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> None:
    """Write raw files, the input of a whole pipeline."""
    counts = write_raw(arguments.folder, Catalogue(arguments.interactions, arguments.seed))
    print(f"Wrote reviews.json.gz and metadata.json.gz to {arguments.folder}")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
