"""Ray actors that write recommendation lists and user vectors.

B users, C channels, D width, n items of a list.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.pool import ShardWorker, UserShard
from evaluation.ranking import seen_pairs
from mdsrec import schema
from training.data.sequences import History
from training.layers.scoring import top_k_items


class RecommendWorker(ShardWorker):
    """An actor that finds the items with the highest scores after all events of a user.

    `options` are those of `evaluation.recommend`.
    """

    def rows(self, shard: UserShard) -> pa.Table:
        parts = [schema.RECOMMENDATIONS.empty_table()]
        for users, histories in _user_batches(self, shard, self.options.users):
            queries = self.trained.user_vectors(histories)
            seen = seen_pairs(histories if self.options.exclude_seen else [])
            weights = self.trained.channel_weights.to(self.items.device)
            scores, items = top_k_items(
                queries,
                self.items,
                weights,
                self.options.top,
                self.experiment.eval.item_block,
                torch.from_numpy(seen).to(self.items.device),
            )
            channels = self._largest_channels(queries, items)
            parts.append(_recommendation_rows(users, scores, items, channels))
        return pa.concat_tables(parts)

    def _largest_channels(self, queries: Tensor, items: Tensor) -> NDArray[np.str_]:
        """Return the channel with the largest term of each score -> [B, n]."""
        vectors_CBnD = self.items[:, items.clamp(max=self.items.shape[1] - 1)]
        terms = torch.einsum("bcd,cbnd->cbn", queries, vectors_CBnD)
        weights = self.trained.channel_weights.to(terms.device)
        largest = (terms * weights[:, None, None]).argmax(dim=0).cpu().numpy()
        channels: NDArray[np.str_] = np.array(self.trained.channels[1:])[largest]
        return channels


class UserVectorWorker(ShardWorker):
    """An actor that writes one vector per user: those of all channels, weighted and concatenated.

    Its inner product with an item vector is the whole score (Eq. 22).
    """

    def rows(self, shard: UserShard) -> pa.Table:
        parts = [schema.USER_VECTORS.empty_table()]
        weights = self.trained.channel_weights[:, None]
        for batch, histories in _user_batches(self, shard, None):
            queries = self.trained.user_vectors(histories).cpu() * weights
            flat = pa.array(queries.reshape(-1).numpy())
            vectors = pa.FixedSizeListArray.from_arrays(flat, queries[0].numel())
            table = pa.table({"user": pa.array(batch), "vector": vectors})
            parts.append(table.cast(schema.USER_VECTORS))
        return pa.concat_tables(parts)


def _user_batches(
    worker: ShardWorker, shard: UserShard, selected: frozenset[int] | None
) -> Iterator[tuple[list[int], list[History]]]:
    """Yield the selected users (None: all) of each batch of a shard, and their histories."""
    size = worker.experiment.eval.user_batch
    for first in range(shard.first, shard.last, size):
        batch = range(first, min(first + size, shard.last))
        users = [user for user in batch if selected is None or user in selected]
        if users:
            histories = worker.reader.histories(batch.start, batch.stop)
            yield users, [histories[user - first] for user in users]


def _recommendation_rows(
    users: list[int], scores: Tensor, items: Tensor, channels: NDArray[np.str_]
) -> pa.Table:
    """Return one row per user. A list ends early where a user has fewer items left to recommend."""
    is_item = (scores > -torch.inf).cpu().numpy()
    columns = {
        "user": users,
        "items": _ragged(items.cpu().numpy(), is_item),
        "scores": _ragged(scores.cpu().numpy(), is_item),
        "channels": _ragged(channels, is_item),
    }
    target = schema.RECOMMENDATIONS
    arrays = {name: pa.array(c, target.field(name).type) for name, c in columns.items()}
    return pa.table(arrays, schema=target)


def _ragged(values: NDArray[np.generic], mask: NDArray[np.bool_]) -> list[list[object]]:
    return [row[kept].tolist() for row, kept in zip(values, mask, strict=True)]
