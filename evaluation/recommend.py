"""What comes next for every user, and the vectors that a service would answer from.

B users, C channels, D width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.lists import in_words, lists_of
from evaluation.ranking import seen_pairs
from evaluation.run import weights_fingerprint
from evaluation.shards import Shard
from evaluation.workers import ShardWorker, made_by_shards
from mdsrec import names, schema, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.tables import Recipe
from training.ranking import top_items
from training.trained import Trained, load_trained

ROWS = 8192  # items written together

History = NDArray[np.int32]


class Options(NamedTuple):
    top: int
    exclude_seen: bool


def recommend(experiment: Experiment, options: Options) -> str:
    """Write `recommendations` and `vectors` of a trained run -> what to show of it on one screen.

    What stands already for the same weights and options is not made again.
    """
    trained, run = load_trained(experiment), names.run_uri(experiment)
    if options.top > trained.num_items:
        raise InputError(f"--top {options.top}: there are {trained.num_items} items")
    inputs = {"tables": trained.dataset_fingerprint, "weights": weights_fingerprint(trained)}
    identity = experiment.identity()
    of_users = Recipe({"run": identity, **options._asdict()}, inputs)
    of_vectors = Recipe({"run": identity}, inputs)
    made = {
        "recommendations": (RecommendWorker, of_users),
        "vectors/users": (UserVectorWorker, of_vectors),
    }
    for name, (worker, recipe) in made.items():
        if tables.standing(f"{run}/{name}", recipe) is None:
            made_by_shards(experiment, worker, f"{run}/{name}", recipe, "served", options)
    if tables.standing(f"{run}/vectors/items", of_vectors) is None:
        batches = item_vectors(experiment, trained)
        tables.write_table(f"{run}/vectors/items", batches, schema.ITEM_VECTORS, of_vectors)
    return "\n".join(
        [
            f"{experiment.name}: the {options.top} best items of every user",
            *in_words(lists_of(experiment, inputs)),
            "",
            f"recommendations  {run}/recommendations",
            f"vectors          {run}/vectors/users, {run}/vectors/items",
        ]
    )


class RecommendWorker(ShardWorker):
    """The items with the highest scores after all events of a user."""

    def rows(self, shard: Shard) -> pa.Table:
        parts = []
        for first, histories in batches_of(self, shard):
            queries = self.trained.user_vectors(histories)
            seen = seen_pairs(histories if self.options.exclude_seen else [])
            weights = self.trained.weights.to(self.items.device)
            scores, items = top_items(
                queries,
                self.items,
                weights,
                self.options.top,
                self.experiment.eval.item_block,
                torch.from_numpy(seen).to(self.items.device),
            )
            parts.append(self._table(first, scores, items, self._largest(queries, items)))
        return pa.concat_tables(parts) if parts else schema.RECOMMENDATIONS.empty_table()

    def _largest(self, queries: Tensor, items: Tensor) -> NDArray[np.str_]:
        """The channel that gives most of each score -> [B, n]."""
        vectors_CBnD = self.items[:, items.clamp(max=self.items.shape[1] - 1)]
        terms = torch.einsum("bcd,cbnd->cbn", queries, vectors_CBnD)
        weights = self.trained.weights.to(terms.device)
        largest = (terms * weights[:, None, None]).argmax(dim=0).cpu().numpy()
        channels: NDArray[np.str_] = np.array(self.trained.channels[1:])[largest]
        return channels

    def _table(
        self, first: int, scores: Tensor, items: Tensor, channels: NDArray[np.str_]
    ) -> pa.Table:
        there = (scores > -torch.inf).cpu().numpy()
        columns = {
            "user": np.arange(first, first + len(scores)),
            "items": _lists(items.cpu().numpy(), there),
            "scores": _lists(scores.cpu().numpy(), there),
            "channels": _lists(channels, there),
        }
        wanted = schema.RECOMMENDATIONS
        arrays = {name: pa.array(c, wanted.field(name).type) for name, c in columns.items()}
        return pa.table(arrays, schema=wanted)


class UserVectorWorker(ShardWorker):
    """Users as one vector each, whose inner product with an item's is the whole score."""

    def rows(self, shard: Shard) -> pa.Table:
        parts = [schema.USER_VECTORS.empty_table()]
        for first, histories in batches_of(self, shard):
            queries = self.trained.user_vectors(histories).cpu() * self.trained.weights[:, None]
            flat = pa.array(queries.reshape(-1).numpy())
            vectors = pa.FixedSizeListArray.from_arrays(flat, queries[0].numel())
            users = pa.array(np.arange(first, first + len(queries)))
            table = pa.table({"user": users, "vector": vectors})
            parts.append(table.cast(schema.USER_VECTORS))
        return pa.concat_tables(parts)


def batches_of(worker: ShardWorker, shard: Shard) -> Iterator[tuple[int, list[History]]]:
    """The first user of each batch of a shard, and the batch's histories."""
    size = worker.experiment.eval.user_batch
    for first in range(shard.first, shard.last, size):
        yield first, worker.reader.histories(first, min(first + size, shard.last))


def item_vectors(experiment: Experiment, trained: Trained) -> Iterator[pa.RecordBatch]:
    """What every channel scores an item by, end to end."""
    vectors_CXD = trained.item_vectors()
    asins = tables.read_table(tables.table_uri(experiment.root, "items"), schema.ITEMS, ["asin"])
    for first in range(0, trained.num_items, ROWS):
        vectors_nCD = vectors_CXD[:, first : first + ROWS].transpose(0, 1)
        flat = pa.array(vectors_nCD.reshape(-1).numpy())
        lists = pa.FixedSizeListArray.from_arrays(flat, vectors_nCD[0].numel())
        columns = {
            "item": pa.array(np.arange(first, first + len(lists), dtype=np.int32)),
            "asin": asins["asin"].slice(first, len(lists)),
            "vector": lists,
        }
        yield from pa.table(columns).cast(schema.ITEM_VECTORS).combine_chunks().to_batches()


def _lists(values: NDArray[np.generic], there: NDArray[np.bool_]) -> list[list[object]]:
    return [row[kept].tolist() for row, kept in zip(values, there, strict=True)]
