"""Recommendation lists of users, and the user and item vectors that a service would search."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluation.actors.job_groups import keeping_groups
from evaluation.channel_weights import describe_weighted
from evaluation.metrics.coverage import list_metrics, list_metrics_text
from evaluation.pool import write_table_in_shards
from evaluation.serving.history_files import write_histories
from evaluation.stored.held_run import held_run
from evaluation.stored.part_tables import write_parts
from evaluation.stored_weights import model_inputs, weights_in_recipe
from evaluation.workers import HistoryWorker, ItemVectorWorker, RecommendWorker, UserVectorWorker
from mdsrec import files, schema, tables
from mdsrec.arrays import MOST_VALUES
from mdsrec.config import Experiment
from mdsrec.config.training import EvalConfig
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from mdsrec.table_names import memory_name
from mdsrec.tables import Recipe
from training.data.table_checks import check_memory_table
from training.distributed.ray_session import ray_session
from training.trained_run import Trained, TrainedRun


class Options(NamedTuple):
    """Options of `python -m evaluation recommend`."""

    top: int  # items per user
    exclude_seen: bool
    users: frozenset[int] | None = None  # None means every user
    category: str | None = None  # of the items; None means any


def recommend(experiment: Experiment, options: Options) -> str:
    """Write the tables `recommendations` and `vectors` of a trained run -> summary for the screen.

    A table that exists for the same weights, options and columns is not written again.
    """
    with held_run(experiment):
        return _recommend(experiment, options)


def _recommend(experiment: Experiment, options: Options) -> str:
    trained, paths = describe_weighted(experiment), RunPaths.of(experiment)
    _check_top(trained, options, experiment.eval)
    files.check_room(paths.uri, _vector_bytes(experiment, trained), "the vectors of this run")
    inputs = model_inputs(trained)
    users = None if options.users is None else sorted(options.users)
    recipe_of = partial(_recipe, experiment, trained)
    list_recipe = recipe_of(schema.RECOMMENDATIONS, **_settings(options) | {"users": users})
    missing = [
        (uri, worker, recipe)
        for uri, worker, recipe in (
            (paths.recommendations, RecommendWorker, list_recipe),
            (paths.user_vectors, UserVectorWorker, recipe_of(schema.USER_VECTORS)),
            (paths.item_vectors, ItemVectorWorker, recipe_of(schema.ITEM_VECTORS)),
        )
        if tables.find_table(uri, recipe) is None
    ]
    with ray_session() if missing else nullcontext(), keeping_groups():
        for uri, worker, recipe in missing:
            weight_of = trained.weight_of
            write_table_in_shards(experiment, weight_of, worker, uri, recipe, "served", options)
    memory_recipe = recipe_of(schema.MEMORY)
    if trained.memory_fingerprint and tables.find_table(paths.memory_terms, memory_recipe) is None:
        write_parts(paths.memory_terms, memory_terms(experiment), schema.MEMORY, memory_recipe)
    lists = list_metrics(experiment, inputs)
    assert lists
    vectors = [paths.user_vectors, paths.item_vectors]
    vectors += [paths.memory_terms] if trained.memory_fingerprint else []
    served = "every user" if users is None else f"{len(users):,} users"
    return "\n".join(
        [
            f"{experiment.name}: the top {options.top} items{_category(options)} of {served}",
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
    with held_run(experiment):
        return _recommend_histories(experiment, path, options)


def _recommend_histories(experiment: Experiment, path: str, options: Options) -> str:
    trained, uri = describe_weighted(experiment), RunPaths.of(experiment).recommendations
    _check_top(trained, options, experiment.eval)
    histories, left_out = write_histories(experiment, path)
    settings = _settings(options) | {"histories": histories.fingerprint}
    recipe = _recipe(experiment, trained, schema.RECOMMENDATIONS, **settings)
    if tables.find_table(uri, recipe) is None:
        weight_of = trained.weight_of
        write_table_in_shards(experiment, weight_of, HistoryWorker, uri, recipe, "served", options)
    items = f"{experiment.name}: the top {options.top} items{_category(options)}"
    served = f"{items} of {histories.rows:,} users of {path}"
    return "\n".join([served, *left_out, "", f"recommendations  {uri}"])


def _settings(options: Options) -> dict[str, object]:
    """Return the options that are set: a recipe without a category is that of older versions."""
    found = options._asdict()
    return {key: value for key, value in found.items() if (key, value) != ("category", None)}


def _category(options: Options) -> str:
    return "" if options.category is None else f" in {options.category}"


def _recipe(
    experiment: Experiment, trained: Trained, columns: pa.Schema, **settings: object
) -> Recipe:
    run, weights = experiment.identity(), weights_in_recipe(trained)
    all_settings = {"run": run, "columns": columns.names, **weights, **settings}
    return Recipe(all_settings, model_inputs(trained))


def _check_top(trained: TrainedRun, options: Options, settings: EvalConfig) -> None:
    user_batch = settings.sized_for(gpu=True).users_together  # the larger size, if it is not set
    if options.top > trained.num_items:
        raise InputError(f"--top {options.top}: there are only {trained.num_items} items")
    if options.top * user_batch > MOST_VALUES:
        raise InputError(
            f"--top {options.top}: with batches of {user_batch} users a list column would hold "
            f"{options.top * user_batch:,} values, at most {MOST_VALUES:,} have an offset: "
            f"set eval.user_batch to at most {MOST_VALUES // options.top}"
        )


def read_user_file(experiment: Experiment, path: str) -> frozenset[int]:
    """Return the users whose ids a file lists, one per line.

    Raises InputError for an unknown id, and for a file without ids.
    """
    ids = [line.strip() for line in _read_text(path).splitlines()]
    wanted, uri = pa.array(ids, pa.string()), tables.table_uri(experiment.root, "sequences")
    user_of: dict[str, int] = {}
    columns = ["user", "user_id"]
    for rows in tables.stream_table(uri, tables.open_table(uri), schema.SEQUENCES, columns):
        found = pa.table(rows).filter(pc.is_in(rows["user_id"], wanted))
        user_of |= dict(zip(found["user_id"].to_pylist(), found["user"].to_pylist(), strict=True))
    for line, user_id in enumerate(ids, 1):
        if user_id and user_id not in user_of:
            raise InputError(f"--users {path}, line {line}: no user {user_id!r} in the sequences")
    users = frozenset(user_of.values())
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


def _vector_bytes(experiment: Experiment, trained: TrainedRun) -> int:
    """Return a lower bound of the size of all user and item vectors, which compress little."""
    if not trained.num_vectors:
        return 0
    num_users = tables.open_table(tables.table_uri(experiment.root, "sequences")).rows
    width = trained.num_vectors * experiment.network.dim
    return width * 4 * (num_users + trained.num_items) // 2


def memory_terms(experiment: Experiment) -> Iterator[pa.RecordBatch]:
    """Yield the terms of the memory: what an event of `item` adds to the score of `other`."""
    manifest, num_items = check_memory_table(experiment)
    uri = tables.table_uri(experiment.root, memory_name(experiment))
    tau = experiment.transitions.tau
    for rows in tables.stream_table(uri, manifest, schema.MEMORY, schema.MEMORY.names):
        scores = rows["score"].to_numpy().astype(np.float64)
        terms = pa.array(np.log1p(scores * (num_items / tau)).astype(np.float32))
        yield pa.RecordBatch.from_arrays([rows["item"], rows["other"], terms], schema=schema.MEMORY)
