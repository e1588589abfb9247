"""Jobs of actors: the ranks of held-out events, recommendation lists and vectors.

C channels, D width, n items written together.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from evaluation.actors.shard_worker import Shard, ShardWorker
from evaluation.baselines import Baseline, read_baselines
from evaluation.ranking import rank_targets
from evaluation.serving.catalogue import Catalogue
from evaluation.serving.lists import BestItems, best_items
from evaluation.stored.table_rows import TableRows
from mdsrec import schema, tables
from mdsrec.arrays import Floats, fixed_lists
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from training.data.sequences import History, SequenceReader
from training.inference import ALL, MEMORY, SEEN


class UserBatch(NamedTuple):
    """Users whose vectors are computed together."""

    users: list[int]
    user_ids: pa.ChunkedArray
    histories: list[History]


class RankWorker(ShardWorker):
    """A job that ranks the held-out events of users."""

    @cached_property
    def baselines(self) -> Mapping[str, Baseline]:
        """Return the baselines, or none where this actor of a group writes nothing."""
        return {} if self.member.rank else read_baselines(self.experiment)

    def rows(self, shard: Shard) -> pa.Table:
        return rank_targets(
            self.trained,
            self.baselines,
            self.reader.targets(shard.first, shard.last),
            self.experiment.eval,
        )


class RecommendWorker(ShardWorker):
    """A job that finds the items with the highest scores after all events of a user.

    `options` are those of `evaluation.recommend`.
    """

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue.read(self.experiment)

    @cached_property
    def wanted(self) -> torch.Tensor | None:
        """Return which items are of the category -> bool [X]; None for any category."""
        category = self.options.category
        if category is None:
            return None
        return torch.from_numpy(self.catalogue.in_category(category))

    def rows(self, shard: Shard) -> pa.Table:
        parts = [schema.RECOMMENDATIONS.empty_table()]
        top, exclude_seen, users, _ = self.options
        for batch in _user_batches(self, shard, users):
            block = self.experiment.eval.items_together
            best = best_items(self.trained, batch.histories, top, exclude_seen, block, self.wanted)
            if self.writes(shard):
                parts.append(_recommendation_rows(batch, best, self.catalogue))
        return pa.concat_tables(parts)


class HistoryWorker(RecommendWorker):
    """A job that finds the items for users who were not in the data."""

    @classmethod
    def open_reader(cls, experiment: Experiment) -> SequenceReader:
        return SequenceReader(experiment, RunPaths.of(experiment).histories)


class UserVectorWorker(ShardWorker):
    """A job that writes one vector per user: those of all channels, weighted and concatenated.

    Its inner product with an item vector is the score of the network (Eq. 22 with the channels'
    weights). With a memory the user's last events and their weights follow: see
    `evaluation.vector_tables`.
    """

    def rows(self, shard: Shard) -> pa.Table:
        parts = [schema.USER_VECTORS.empty_table()]
        weights = self.trained.sums[ALL]
        for batch in _user_batches(self, shard, None):
            vectors = self.trained.user_vectors(batch.histories).cpu()
            queries = vectors * weights[: vectors.shape[1], None]
            events, fading = self._remembered(batch.histories)
            columns = {
                "user": batch.users,
                "user_id": batch.user_ids,
                "vector": fixed_lists(queries.flatten(1).numpy()),
                "events": pa.array(events, pa.list_(pa.int32())),
                "event_weights": pa.array(fading, pa.list_(pa.float32())),
                "seen": pa.array(self._seen(batch.histories), pa.list_(pa.int32())),
                "seen_weight": [self.trained.weight_of.get(SEEN, 0.0)] * len(batch.users),
            }
            parts.append(pa.table(columns).cast(schema.USER_VECTORS))
        return pa.concat_tables(parts)

    def _seen(self, histories: list[History]) -> list[History]:
        """Return the distinct items of each history, if they have a weight."""
        weight = self.trained.weight_of.get(SEEN, 0.0)
        return [np.unique(history if weight else history[:0]) for history in histories]

    def _remembered(self, histories: list[History]) -> tuple[list[History], list[Floats]]:
        """Return the events that the memory scores by, last first, and their weights."""
        memory = self.trained.memory
        if memory is None:
            return [history[:0] for history in histories], [np.empty(0)] * len(histories)
        weight = self.trained.weight_of[MEMORY]
        events = [memory.recent(history) for history in histories]
        return events, [weight * memory.fading(len(each)) for each in events]


class ItemVectorWorker(ShardWorker):
    """A job that writes the vectors of items: those of all channels, concatenated to [C D]."""

    kind = "items"

    @classmethod
    def total(cls, experiment: Experiment) -> int:
        return tables.open_table(tables.table_uri(experiment.root, "items")).rows

    @cached_property
    def names(self) -> TableRows:
        uri = tables.table_uri(self.experiment.root, "items")
        return TableRows(uri, schema.ITEMS, ["item_id", "title"])

    def writes(self, shard: Shard) -> bool:
        """Return whether this actor owns the first item of the part."""
        return self.trained.owns(shard.first)

    def rows(self, shard: Shard) -> pa.Table:
        vectors_CnD = self.trained.vectors_between(shard.first, shard.last).cpu()
        if not self.writes(shard):
            return schema.ITEM_VECTORS.empty_table()
        flat = vectors_CnD.transpose(0, 1).flatten(1).numpy()
        names = self.names.between(shard.first, shard.last)
        columns = {
            "item": np.arange(shard.first, shard.last, dtype=np.int32),
            "item_id": names["item_id"],
            "title": names["title"],
            "vector": fixed_lists(flat),
        }
        return pa.table(columns).cast(schema.ITEM_VECTORS)


def _user_batches(
    worker: ShardWorker, shard: Shard, selected: frozenset[int] | None
) -> Iterator[UserBatch]:
    """Yield the selected users (None: all) of each batch of a shard."""
    size = worker.experiment.eval.users_together
    for first in range(shard.first, shard.last, size):
        last = min(first + size, shard.last)
        users = [user for user in range(first, last) if selected is None or user in selected]
        if users:
            places = [user - first for user in users]
            user_ids = worker.reader.user_ids(first, last).take(places)
            histories = worker.reader.histories(first, last)
            yield UserBatch(users, user_ids, [histories[place] for place in places])


def _recommendation_rows(batch: UserBatch, best: BestItems, catalogue: Catalogue) -> pa.Table:
    """Return one row per user. A list ends early where a user has fewer items left to recommend."""
    offsets = pa.array(np.cumsum([0, *best.is_item.sum(axis=1)]), pa.int32())
    listed = pa.array(best.items[best.is_item])
    lists = {
        "items": listed,
        "item_ids": catalogue.item_ids.take(listed),
        "titles": catalogue.titles.take(listed),
        "scores": pa.array(best.scores[best.is_item]),
        "channels": pa.array(best.channels[best.is_item], pa.string()),
    }
    columns = {"user": batch.users, "user_id": batch.user_ids} | {
        name: pa.ListArray.from_arrays(offsets, values) for name, values in lists.items()
    }
    return pa.table(columns).cast(schema.RECOMMENDATIONS)
