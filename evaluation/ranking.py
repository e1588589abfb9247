"""Exact ranks of every held-out event among all items, one shard of users at a time.

Batches and item blocks are fixed ranges of ids, so every worker computes the same bits.
B targets, S weighted sums of channels, C channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from evaluation.baselines import Popularity
from evaluation.metrics.run_metrics import POPULARITY
from evaluation.pool import ShardWorker, UserShard
from mdsrec import schema, tables
from mdsrec.arrays import Counts
from mdsrec.config import EvalConfig
from training.data.sequences import History, Target
from training.inference import SEEN
from training.layers.queries import Queries
from training.layers.scoring import count_channels


class Scorer(Protocol):
    """The part of a trained model that ranking uses."""

    @property
    def sums(self) -> Mapping[str, Tensor]: ...  # weights of the channels [C] in each sum
    @property
    def channels(self) -> Sequence[str]: ...
    def queries(self, histories: list[History]) -> Queries: ...


def rank_targets(
    scorer: Scorer, popularity: Popularity, targets: Sequence[Target], settings: EvalConfig
) -> pa.Table:
    """Rank `targets` (ordered by user) per sum, per channel and by popularity."""
    sums_SC = torch.stack([*scorer.sums.values()])
    names = ranked_names(scorer)
    num_ranked = len(names) - 1  # the channel of seen items, the last, is part of the sums only
    parts = []
    for batch in target_batches(targets, settings.user_batch):
        target_items = np.array([target.target for target in batch], dtype=np.int64)
        seen = seen_pairs([t.history for t in batch]) if settings.exclude_seen else None
        with torch.inference_mode():
            queries = scorer.queries([target.history for target in batch])
            device = queries.items.device
            better, ties = count_channels(
                queries,
                sums_SC,
                torch.from_numpy(target_items).to(device),
                settings.item_block,
                None if seen is None else torch.from_numpy(seen).to(device),
            )
        popular_better, popular_ties = popularity.better_and_ties(target_items, seen)
        parts.append(
            _rank_rows(
                batch,
                names,
                np.column_stack([better[:, :num_ranked].cpu().numpy(), popular_better]),
                np.column_stack([ties[:, :num_ranked].cpu().numpy(), popular_ties]),
            )
        )
    return pa.concat_tables(parts) if parts else schema.RANKS.empty_table()


def ranked_names(scorer: Scorer) -> tuple[str, ...]:
    """Return the names of all scores that are ranked: the sums, the channels and popularity."""
    channels = [name for name in scorer.channels if name != SEEN]
    return (*scorer.sums, *channels, POPULARITY)


def seen_pairs(histories: Sequence[History]) -> Counts:
    """Return the distinct pairs (index of a history, item in it) -> [pairs, 2]."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.concatenate([np.empty(0, dtype=np.int64), *histories])
    return np.unique(np.stack([rows, items], axis=1).astype(np.int64), axis=0)


def target_batches(targets: Sequence[Target], user_batch: int) -> Iterator[list[Target]]:
    """Group the targets of users [0, n), [n, 2n), ...

    The boundaries do not depend on which users have targets, nor on where the shard starts.
    """
    for _, batch in groupby(targets, key=lambda target: target.user // user_batch):
        yield list(batch)


def _rank_rows(
    batch: list[Target], channels: tuple[str, ...], better: Counts, ties: Counts
) -> pa.Table:
    """Return one row per target and channel from counts [B, channels]."""
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
    """An actor that ranks the held-out events of users."""

    @cached_property
    def popularity(self) -> Popularity:
        uri = tables.table_uri(self.experiment.root, "items")
        events = tables.read_table(uri, schema.ITEMS, ["num_train"])
        return Popularity(events["num_train"].to_numpy())

    def rows(self, shard: UserShard) -> pa.Table:
        return rank_targets(
            self.trained,
            self.popularity,
            self.reader.targets(shard.first, shard.last),
            self.experiment.eval,
        )
