"""What comes next for every user, and the vectors that a service would answer from.

B users, C channels, D width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.metrics.coverage import list_metrics, list_metrics_text
from evaluation.pool import ShardWorker, made_by_shards
from evaluation.ranking import seen_pairs
from evaluation.run import weights_fingerprint
from evaluation.shards import Shard
from mdsrec import files, schema, table_names, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.tables import Recipe
from training.inference import Trained, load_trained
from training.layers.scoring import top_items

ROWS = 8192  # items written together

History = NDArray[np.int32]


class Options(NamedTuple):
    top: int
    exclude_seen: bool
    users: frozenset[int] | None = None  # none: every user


def recommend(experiment: Experiment, options: Options) -> str:
    """Write `recommendations` and `vectors` of a trained run -> what to show of it on one screen.

    What stands already for the same weights and options is not made again.
    """
    trained, run = load_trained(experiment), table_names.run_uri(experiment)
    if options.top > trained.num_items:
        raise InputError(f"--top {options.top}: there are {trained.num_items} items")
    inputs = {"tables": trained.dataset_fingerprint, "weights": weights_fingerprint(trained)}
    identity = experiment.identity()
    chosen = None if options.users is None else sorted(options.users)
    of_users = Recipe({"run": identity, **options._asdict(), "users": chosen}, inputs)
    of_vectors = Recipe({"run": identity}, inputs)
    made = {
        "recommendations": (RecommendWorker, of_users),
        "vectors/users": (UserVectorWorker, of_vectors),
    }
    for name, (worker, recipe) in made.items():
        if tables.find_table(f"{run}/{name}", recipe) is None:
            made_by_shards(experiment, worker, f"{run}/{name}", recipe, "served", options)
    if tables.find_table(f"{run}/vectors/items", of_vectors) is None:
        batches = item_vectors(experiment, trained)
        tables.write_table(f"{run}/vectors/items", batches, schema.ITEM_VECTORS, of_vectors)
    lists = list_metrics(experiment, inputs)
    assert lists
    served = "every user" if chosen is None else f"{len(chosen):,} users"
    return "\n".join(
        [
            f"{experiment.name}: the {options.top} best items of {served}",
            *list_metrics_text(lists),
            "",
            f"recommendations  {run}/recommendations",
            f"vectors          {run}/vectors/users, {run}/vectors/items",
        ]
    )


def users_named(experiment: Experiment, path: str) -> frozenset[int]:
    """The users of a file of user ids, one a line; InputError for an unknown one, or for none."""
    content = files.read_bytes(path)
    if content is None:
        raise InputError(f"--users {path}: no such file")
    wanted = [line.strip() for line in content.decode(errors="replace").splitlines()]
    uri = tables.table_uri(experiment.root, "sequences")
    rows = tables.read_table(uri, schema.SEQUENCES, ["user", "user_id"])
    places = pc.index_in(pa.array(wanted, pa.string()), rows["user_id"].combine_chunks())
    for line, (user_id, place) in enumerate(zip(wanted, places.to_pylist(), strict=True), 1):
        if place is None and user_id:
            raise InputError(f"--users {path}, line {line}: no user {user_id!r} in the sequences")
    found = frozenset(rows["user"].take(places.drop_null()).to_pylist())
    if not found:
        raise InputError(f"--users {path}: no user id in it")
    return found


class RecommendWorker(ShardWorker):
    """The items with the highest scores after all events of a user."""

    def rows(self, shard: Shard) -> pa.Table:
        parts = [schema.RECOMMENDATIONS.empty_table()]
        for users, histories in batches_of(self, shard, self.options.users):
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
            parts.append(_table(users, scores, items, self._largest(queries, items)))
        return pa.concat_tables(parts)

    def _largest(self, queries: Tensor, items: Tensor) -> NDArray[np.str_]:
        """The channel that gives most of each score -> [B, n]."""
        vectors_CBnD = self.items[:, items.clamp(max=self.items.shape[1] - 1)]
        terms = torch.einsum("bcd,cbnd->cbn", queries, vectors_CBnD)
        weights = self.trained.weights.to(terms.device)
        largest = (terms * weights[:, None, None]).argmax(dim=0).cpu().numpy()
        channels: NDArray[np.str_] = np.array(self.trained.channels[1:])[largest]
        return channels


class UserVectorWorker(ShardWorker):
    """Users as one vector each, whose inner product with an item's is the whole score."""

    def rows(self, shard: Shard) -> pa.Table:
        parts = [schema.USER_VECTORS.empty_table()]
        for batch, histories in batches_of(self, shard, None):
            queries = self.trained.user_vectors(histories).cpu() * self.trained.weights[:, None]
            flat = pa.array(queries.reshape(-1).numpy())
            vectors = pa.FixedSizeListArray.from_arrays(flat, queries[0].numel())
            table = pa.table({"user": pa.array(batch), "vector": vectors})
            parts.append(table.cast(schema.USER_VECTORS))
        return pa.concat_tables(parts)


def batches_of(
    worker: ShardWorker, shard: Shard, chosen: frozenset[int] | None
) -> Iterator[tuple[list[int], list[History]]]:
    """The users of each batch of a shard, those `chosen` or all, and their histories."""
    size = worker.experiment.eval.user_batch
    for first in range(shard.first, shard.last, size):
        batch = range(first, min(first + size, shard.last))
        users = [user for user in batch if chosen is None or user in chosen]
        if users:
            histories = worker.reader.histories(batch.start, batch.stop)
            yield users, [histories[user - first] for user in users]


def _table(users: list[int], scores: Tensor, items: Tensor, channels: NDArray[np.str_]) -> pa.Table:
    there = (scores > -torch.inf).cpu().numpy()
    columns = {
        "user": users,
        "items": _lists(items.cpu().numpy(), there),
        "scores": _lists(scores.cpu().numpy(), there),
        "channels": _lists(channels, there),
    }
    wanted = schema.RECOMMENDATIONS
    arrays = {name: pa.array(c, wanted.field(name).type) for name, c in columns.items()}
    return pa.table(arrays, schema=wanted)


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
