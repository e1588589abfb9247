"""Exact ranks of every held-out event among all items, one shard of users at a time.

Batches and item blocks are fixed ranges of ids, so every worker computes the same bits.
B targets, S weighted sums of channels, C channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from evaluation.baselines import Baseline, cut
from mdsrec import schema
from mdsrec.arrays import Counts
from mdsrec.config import EvalConfig
from training.data.sequences import History, Target
from training.inference import SEEN
from training.layers.queries import Ranking
from training.trained_run import Trained

EVENTS_TOGETHER = 1 << 20


class Scorer(Protocol):
    """The part of a trained model that ranking uses."""

    @property
    def sums(self) -> Mapping[str, Tensor]: ...  # weights of the channels [C] in each sum
    @property
    def channels(self) -> Sequence[str]: ...
    def ranking(self, histories: list[History]) -> Ranking: ...


def rank_targets(
    scorer: Scorer,
    baselines: Mapping[str, Baseline],
    targets: Sequence[Target],
    settings: EvalConfig,
) -> pa.Table:
    """Rank `targets` (ordered by user) per sum, per channel and per baseline."""
    sums_SC = torch.stack([*scorer.sums.values()])
    own_names = ranked_names(scorer)
    num_ranked = len(own_names)  # the channel of seen items, the last, is part of the sums only
    parts = []
    counts_of = _baseline_counts(baselines, targets, settings)
    for batch in target_batches(targets, settings.users_together):
        target_items = np.array([target.target for target in batch], dtype=np.int64)
        seen = seen_pairs([t.history for t in batch]) if settings.exclude_seen else None
        with torch.inference_mode():
            ranking = scorer.ranking([target.history for target in batch])
            better, ties = ranking.count(
                sums_SC,
                torch.from_numpy(target_items),
                settings.items_together,
                None if seen is None else torch.from_numpy(seen),
            )
        counts = next(counts_of)
        parts.append(
            _rank_rows(
                batch,
                (*own_names, *baselines),
                np.column_stack([better[:, :num_ranked].cpu().numpy(), *(b for b, _ in counts)]),
                np.column_stack([ties[:, :num_ranked].cpu().numpy(), *(t for _, t in counts)]),
            )
        )
    return pa.concat_tables(parts) if parts else schema.RANKS.empty_table()


def _baseline_counts(
    baselines: Mapping[str, Baseline], targets: Sequence[Target], settings: EvalConfig
) -> Iterator[list[tuple[Counts, Counts]]]:
    """Yield, for each batch of targets, the counts [B] (better, ties) of each baseline.

    Batches of up to EVENTS_TOGETHER events are counted together: ItemKNN then reads its rows once.
    """
    batches = list(target_batches(targets, settings.users_together))
    events = [sum(len(target.history) for target in batch) for batch in batches]
    for group in cut(events, EVENTS_TOGETHER):
        together = [target for number in group for target in batches[number]]
        seen = seen_pairs([t.history for t in together]) if settings.exclude_seen else None
        counts = [each.better_and_ties(together, seen) for each in baselines.values()]
        ends = np.cumsum([len(batches[number]) for number in group])[:-1]
        parts = [zip(*(np.split(count, ends) for count in both), strict=True) for both in counts]
        for _ in group:
            yield [next(part) for part in parts]


def ranked_names(scorer: Scorer | Trained) -> tuple[str, ...]:
    """Return the names of all scores of a model that are ranked: the sums and the channels."""
    return (*scorer.sums, *(name for name in scorer.channels if name != SEEN))


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
