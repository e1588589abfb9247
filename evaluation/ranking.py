"""Exact ranks of every held-out event among all items, one shard of users at a time.

Batches and item blocks are fixed ranges of ids, so any worker writes the same bits.
      B targets, C channels, X items, D width.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.pool import ShardWorker
from evaluation.shards import Shard
from mdsrec import schema, tables
from mdsrec.config import EvalConfig
from training.data.sequences import Target
from training.layers.scoring import count_channels

POPULARITY = "popularity"

Counts = NDArray[np.int64]


class Scorer(Protocol):
    """What ranking needs of a trained model."""

    @property
    def channels(self) -> tuple[str, ...]: ...  # all, fused, then each modality
    @property
    def weights(self) -> Tensor: ...  # [C]
    def user_vectors(self, histories: list[NDArray[np.int32]]) -> Tensor: ...


class Popularity:
    """The floor: items ordered by their training events, equal counts tied."""

    def __init__(self, num_train: Counts) -> None:
        self._num_train = num_train
        self._ascending = np.sort(num_train)

    def count(self, targets: Counts, seen: Counts | None) -> tuple[Counts, Counts]:
        """Items with more training events than each target, and others with as many -> [B] each.

        `seen` [pairs, 2] are distinct (place of a target, item) that do not count.
        """
        own = self._num_train[targets]
        at_most = np.searchsorted(self._ascending, own, side="right")
        below = np.searchsorted(self._ascending, own, side="left")
        better, level = len(self._ascending) - at_most, at_most - below - 1
        if seen is not None:
            row, item = seen[seen[:, 1] != targets[seen[:, 0]]].T
            better -= np.bincount(row[self._num_train[item] > own[row]], minlength=len(own))
            level -= np.bincount(row[self._num_train[item] == own[row]], minlength=len(own))
        return better, level


def rank_targets(
    scorer: Scorer,
    items: Tensor,
    popularity: Popularity,
    targets: Sequence[Target],
    settings: EvalConfig,
) -> pa.Table:
    """Ranks of `targets` (by user) among `items` [C, X, D], in every channel and by popularity."""
    channels = (*scorer.channels, POPULARITY)
    parts = []
    for batch in _batches(targets, settings.user_batch):
        wanted = np.array([target.target for target in batch], dtype=np.int64)
        seen = seen_pairs([t.history for t in batch]) if settings.exclude_seen else None
        with torch.inference_mode():
            better, ties = count_channels(
                scorer.user_vectors([target.history for target in batch]),
                items,
                scorer.weights.to(items.device),
                torch.from_numpy(wanted).to(items.device),
                settings.item_block,
                None if seen is None else torch.from_numpy(seen).to(items.device),
            )
        floor_better, floor_ties = popularity.count(wanted, seen)
        parts.append(
            _rows(
                batch,
                channels,
                np.column_stack([better.cpu().numpy(), floor_better]),
                np.column_stack([ties.cpu().numpy(), floor_ties]),
            )
        )
    return pa.concat_tables(parts) if parts else schema.RANKS.empty_table()


def seen_pairs(histories: Sequence[NDArray[np.int32]]) -> Counts:
    """Each (place of a history, item that stands in it) once -> [pairs, 2]."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.concatenate([np.empty(0, dtype=np.int64), *histories])
    return np.unique(np.stack([rows, items], axis=1).astype(np.int64), axis=0)


def _batches(targets: Sequence[Target], user_batch: int) -> Iterator[list[Target]]:
    """Targets of users [0, n), [n, 2n), ...: the same batches from wherever a shard starts."""
    for _, batch in groupby(targets, key=lambda target: target.user // user_batch):
        yield list(batch)


def _rows(batch: list[Target], channels: tuple[str, ...], better: Counts, ties: Counts) -> pa.Table:
    """One row for each target and channel, from counts [B, channels]."""
    num_channels = len(channels)
    columns = {
        "user": np.repeat([target.user for target in batch], num_channels),
        "target": np.repeat([target.target for target in batch], num_channels),
        "split": np.repeat([target.split for target in batch], num_channels),
        "channel": np.tile(channels, len(batch)),
        "better": better.ravel(),
        "ties": ties.ravel(),
        "rank": (better + 1 + ties / 2).ravel(),
    }
    return pa.table(
        {name: pa.array(column, schema.RANKS.field(name).type) for name, column in columns.items()},
        schema=schema.RANKS,
    )


class RankWorker(ShardWorker):
    """Ranks the held-out events of a shard's users."""

    @cached_property
    def popularity(self) -> Popularity:
        uri = tables.table_uri(self.experiment.root, "items")
        events = tables.read_table(uri, schema.ITEMS, ["num_train"])
        return Popularity(events["num_train"].to_numpy())

    def rows(self, shard: Shard) -> pa.Table:
        return rank_targets(
            self.trained,
            self.items,
            self.popularity,
            self.reader.targets(shard.first, shard.last),
            self.experiment.eval,
        )
