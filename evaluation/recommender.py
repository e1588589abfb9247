"""Ray actors that write recommendation lists and user vectors."""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.pool import ShardWorker, UserShard
from evaluation.ranking import seen_pairs
from mdsrec import schema, tables
from mdsrec.arrays import Floats
from mdsrec.config import Experiment
from training.data.sequences import History
from training.inference import ALL, MEMORY, SEEN
from training.layers.scoring import top_k_items


class UserBatch(NamedTuple):
    """Users whose vectors are computed together."""

    users: list[int]
    user_ids: pa.ChunkedArray
    histories: list[History]


class ItemNames(NamedTuple):
    """Id and title of every item, each in one array: `take` would join several at every call."""

    item_ids: pa.LargeStringArray
    titles: pa.LargeStringArray

    @classmethod
    def read(cls, experiment: Experiment) -> Self:
        uri, names = tables.table_uri(experiment.root, "items"), ["item_id", "title"]
        rows = tables.read_table(uri, schema.ITEMS, names)
        # large: the titles of all items may have more bytes than a string array can address
        return cls(*(rows[name].cast(pa.large_string()).combine_chunks() for name in names))


class RecommendWorker(ShardWorker):
    """An actor that finds the items with the highest scores after all events of a user.

    `options` are those of `evaluation.recommend`.
    """

    @cached_property
    def names(self) -> ItemNames:
        return ItemNames.read(self.experiment)

    def rows(self, shard: UserShard) -> pa.Table:
        parts = [schema.RECOMMENDATIONS.empty_table()]
        weights = self.trained.sums[ALL]
        for batch in _user_batches(self, shard, self.options.users):
            queries = self.trained.queries(batch.histories)
            device = queries.items.device
            seen = seen_pairs(batch.histories if self.options.exclude_seen else [])
            scores, items = top_k_items(
                queries,
                weights,
                self.options.top,
                self.experiment.eval.item_block,
                torch.from_numpy(seen).to(device),
            )
            terms = queries.scores_of(items.clamp(max=self.trained.num_items - 1))
            largest = (terms * weights.to(device)).argmax(dim=2).cpu().numpy()
            channels = np.array(self.trained.channels)[largest]
            parts.append(_recommendation_rows(batch, scores, items, channels, self.names))
        return pa.concat_tables(parts)


class UserVectorWorker(ShardWorker):
    """An actor that writes one vector per user: those of all channels, weighted and concatenated.

    Its inner product with an item vector is the score of the network (Eq. 22 with the channels'
    weights). With a memory the user's last events and their weights follow: see
    `evaluation.exported`.
    """

    def rows(self, shard: UserShard) -> pa.Table:
        parts = [schema.USER_VECTORS.empty_table()]
        weights = self.trained.sums[ALL]
        for batch in _user_batches(self, shard, None):
            vectors = self.trained.user_vectors(batch.histories).cpu()
            queries = vectors * weights[: vectors.shape[1], None]
            events, fading = self._remembered(batch.histories)
            columns = {
                "user": batch.users,
                "user_id": batch.user_ids,
                "vector": list(queries.flatten(1).numpy()),
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


def _user_batches(
    worker: ShardWorker, shard: UserShard, selected: frozenset[int] | None
) -> Iterator[UserBatch]:
    """Yield the selected users (None: all) of each batch of a shard."""
    size = worker.experiment.eval.user_batch
    for first in range(shard.first, shard.last, size):
        last = min(first + size, shard.last)
        users = [user for user in range(first, last) if selected is None or user in selected]
        if users:
            places = [user - first for user in users]
            user_ids = worker.reader.user_ids(first, last).take(places)
            histories = worker.reader.histories(first, last)
            yield UserBatch(users, user_ids, [histories[place] for place in places])


def _recommendation_rows(
    batch: UserBatch, scores: Tensor, items: Tensor, channels: NDArray[np.str_], names: ItemNames
) -> pa.Table:
    """Return one row per user. A list ends early where a user has fewer items left to recommend."""
    is_item = (scores > -torch.inf).cpu().numpy()
    offsets = pa.array(np.cumsum([0, *is_item.sum(axis=1)]), pa.int32())
    listed = pa.array(items.cpu().numpy()[is_item])
    lists = {
        "items": listed,
        "item_ids": names.item_ids.take(listed),
        "titles": names.titles.take(listed),
        "scores": pa.array(scores.cpu().numpy()[is_item]),
        "channels": pa.array(channels[is_item], pa.string()),
    }
    columns = {"user": batch.users, "user_id": batch.user_ids} | {
        name: pa.ListArray.from_arrays(offsets, values) for name, values in lists.items()
    }
    return pa.table(columns).cast(schema.RECOMMENDATIONS)
