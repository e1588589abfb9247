"""Recommendation lists of users, and the user and item vectors that a service would search.

C channels, X items, D width, n items written together.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluation.channel_weights import load_weighted
from evaluation.metrics.coverage import list_metrics, list_metrics_text
from evaluation.pool import write_table_in_shards
from evaluation.serving.history_files import write_histories
from evaluation.stored_weights import model_inputs, weights_in_recipe
from evaluation.workers import HistoryWorker, RecommendWorker, UserVectorWorker
from mdsrec import files, schema, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from mdsrec.tables import Recipe
from training.inference import TrainedModel
from training.memory import Memory

ITEM_BATCH = 8192


class Options(NamedTuple):
    """Options of `python -m evaluation recommend`."""

    top: int  # items per user
    exclude_seen: bool
    users: frozenset[int] | None = None  # None means every user


def recommend(experiment: Experiment, options: Options) -> str:
    """Write the tables `recommendations` and `vectors` of a trained run -> summary for the screen.

    A table that exists for the same weights, options and columns is not written again.
    """
    trained, paths = load_weighted(experiment), RunPaths.of(experiment)
    _check_top(trained, options)
    files.check_room(paths.uri, _vector_bytes(experiment, trained), "the vectors of this run")
    inputs = model_inputs(trained)
    users = None if options.users is None else sorted(options.users)
    recipe_of = partial(_recipe, experiment, trained)
    list_recipe = recipe_of(schema.RECOMMENDATIONS, **options._asdict() | {"users": users})
    for uri, worker, recipe in (
        (paths.recommendations, RecommendWorker, list_recipe),
        (paths.user_vectors, UserVectorWorker, recipe_of(schema.USER_VECTORS)),
    ):
        if tables.find_table(uri, recipe) is None:
            weight_of = trained.weight_of
            write_table_in_shards(experiment, weight_of, worker, uri, recipe, "served", options)
    item_recipe = recipe_of(schema.ITEM_VECTORS)
    if tables.find_table(paths.item_vectors, item_recipe) is None:
        batches = item_vector_batches(experiment, trained)
        tables.write_table(paths.item_vectors, batches, schema.ITEM_VECTORS, item_recipe)
    memory_recipe = recipe_of(schema.MEMORY)
    if trained.memory and tables.find_table(paths.memory_terms, memory_recipe) is None:
        terms = memory_batches(trained.memory)
        tables.write_table(paths.memory_terms, terms, schema.MEMORY, memory_recipe)
    lists = list_metrics(experiment, inputs)
    assert lists
    vectors = [paths.user_vectors, paths.item_vectors]
    vectors += [paths.memory_terms] if trained.memory else []
    served = "every user" if users is None else f"{len(users):,} users"
    return "\n".join(
        [
            f"{experiment.name}: the top {options.top} items of {served}",
            *list_metrics_text(lists),
            "",
            f"recommendations  {paths.recommendations}",
            f"vectors          {', '.join(vectors)}",
        ]
    )


def recommend_histories(experiment: Experiment, path: str, options: Options) -> str:
    """Write the table `recommendations` for the users of a file -> summary for the screen.

    The file is that of `evaluation.serving.history_files`.
    """
    trained, uri = load_weighted(experiment), RunPaths.of(experiment).recommendations
    _check_top(trained, options)
    histories, left_out = write_histories(experiment, path)
    settings = options._asdict() | {"histories": histories.fingerprint}
    recipe = _recipe(experiment, trained, schema.RECOMMENDATIONS, **settings)
    if tables.find_table(uri, recipe) is None:
        weight_of = trained.weight_of
        write_table_in_shards(experiment, weight_of, HistoryWorker, uri, recipe, "served", options)
    served = f"{experiment.name}: the top {options.top} items of {histories.rows:,} users of {path}"
    return "\n".join([served, *left_out, "", f"recommendations  {uri}"])


def _recipe(
    experiment: Experiment, trained: TrainedModel, columns: pa.Schema, **settings: object
) -> Recipe:
    run, weights = experiment.identity(), weights_in_recipe(trained)
    all_settings = {"run": run, "columns": columns.names, **weights, **settings}
    return Recipe(all_settings, model_inputs(trained))


def _check_top(trained: TrainedModel, options: Options) -> None:
    if options.top > trained.num_items:
        raise InputError(f"--top {options.top}: there are only {trained.num_items} items")


def read_user_file(experiment: Experiment, path: str) -> frozenset[int]:
    """Return the users whose ids a file lists, one per line.

    Raises InputError for an unknown id, and for a file without ids.
    """
    ids = [line.strip() for line in _read_text(path).splitlines()]
    uri = tables.table_uri(experiment.root, "sequences")
    rows = tables.read_table(uri, schema.SEQUENCES, ["user", "user_id"])
    indices = pc.index_in(pa.array(ids, pa.string()), rows["user_id"].combine_chunks())
    for line, (user_id, index) in enumerate(zip(ids, indices.to_pylist(), strict=True), 1):
        if index is None and user_id:
            raise InputError(f"--users {path}, line {line}: no user {user_id!r} in the sequences")
    users = frozenset(rows["user"].take(indices.drop_null()).to_pylist())
    if not users:
        raise InputError(f"--users {path}: the file has no user ids")
    return users


def _read_text(path: str) -> str:
    """Return the content of the file `--users`. InputError if it is not UTF-8 text."""
    try:
        content = files.read_bytes(path)
        if content is None:
            raise InputError(f"--users {path}: no such file")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"--users {path}: not UTF-8 text: save it in that encoding") from None
    except OSError as error:
        raise InputError(f"--users {path}: cannot be read: {files.first_line(error)}") from None


def _vector_bytes(experiment: Experiment, trained: TrainedModel) -> int:
    """Return a lower bound of the size of all user and item vectors, which compress little."""
    num_users = tables.open_table(tables.table_uri(experiment.root, "sequences")).rows
    num_channels, _, dim = trained.item_vectors().shape
    return num_channels * dim * 4 * (num_users + trained.num_items) // 2


def item_vector_batches(experiment: Experiment, trained: TrainedModel) -> Iterator[pa.RecordBatch]:
    """Yield rows of the item vectors of all channels, concatenated to [C D]."""
    vectors_CXD = trained.item_vectors()
    uri = tables.table_uri(experiment.root, "items")
    names = tables.read_table(uri, schema.ITEMS, ["item_id", "title"])
    for first in range(0, trained.num_items, ITEM_BATCH):
        vectors_nCD = vectors_CXD[:, first : first + ITEM_BATCH].transpose(0, 1)
        flat = pa.array(vectors_nCD.reshape(-1).numpy())
        offsets = pa.array(np.arange(len(vectors_nCD) + 1, dtype=np.int32) * vectors_nCD[0].numel())
        columns = {
            "item": pa.array(np.arange(first, first + len(vectors_nCD), dtype=np.int32)),
            "item_id": names["item_id"].slice(first, len(vectors_nCD)),
            "title": names["title"].slice(first, len(vectors_nCD)),
            "vector": pa.ListArray.from_arrays(offsets, flat),  # also without channels
        }
        yield from pa.table(columns).cast(schema.ITEM_VECTORS).combine_chunks().to_batches()


def memory_batches(memory: Memory) -> Iterator[pa.RecordBatch]:
    """Yield the terms of the memory: what an event of `item` adds to the score of `other`."""
    terms, num_items = memory.terms, memory.terms.shape[0]
    for first in range(0, num_items, ITEM_BATCH):
        last = min(first + ITEM_BATCH, num_items)
        rows = slice(*terms.indptr[[first, last]])
        columns = {
            "item": np.repeat(np.arange(first, last), np.diff(terms.indptr[first : last + 1])),
            "other": terms.indices[rows],
            "score": terms.data[rows],
        }
        yield from pa.table(columns).cast(schema.MEMORY).to_batches()
