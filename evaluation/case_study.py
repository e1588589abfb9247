"""Cases of a trained run: the top items of each channel for a few users, spaced evenly over all."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch

from evaluation.cases import TOP, Case, Cases, Item
from evaluation.ranking import seen_pairs
from evaluation.report.pictures import picture_folder
from mdsrec import files, schema, table_names, tables
from mdsrec.arrays import Counts
from mdsrec.config import EvalConfig, Experiment
from mdsrec.run_paths import RunPaths
from training.data.sequences import History, SequenceReader
from training.inference import SEEN, TrainedModel
from training.layers.scoring import top_k_items

NUM_USERS = 200
SHOWN_EVENTS = 6  # the last ones of a history
NEIGHBORS = 4
TITLE = 160  # characters


def case_study(experiment: Experiment, trained: TrainedModel) -> Cases:
    """Build cases of the first test event of NUM_USERS users.

    The choice of users depends only on the data. Ranks are read from the ranks table.
    """
    uri = RunPaths.of(experiment).ranks
    users = evenly_spaced(test_users(uri))
    reader = SequenceReader(experiment)
    targets = [reader.targets(user, user + 1, "test")[0] for user in users.tolist()]
    target_items = [target.target for target in targets]
    rank_of = first_ranks(uri, users)
    top = top_by_channel(trained, [target.history for target in targets], experiment.eval)
    graphs = experiment.modalities if experiment.model.neighbors_read else ()
    near = {m: nearest_neighbors(experiment, m, target_items) for m in graphs}
    cases = [
        Case(
            user=target.user,
            num_events=len(target.history),
            history=target.history[-SHOWN_EVENTS:].tolist(),
            target=target.target,
            neighbors={m: near[m].get(target.target, []) for m in near},
            rank=rank_of[target.user],
            top={channel: lists[index] for channel, lists in top.items()},
        )
        for index, target in enumerate(targets)
    ]
    return Cases(
        ranks=tables.open_table(uri).fingerprint,
        pictures=picture_folder(experiment),
        cases=cases,
        items=read_items(experiment, set().union(*(case.items() for case in cases))),
    )


def test_users(ranks_uri: str) -> Counts:
    """Return the users with a test event, in ascending order."""
    selected = (pc.field("split") == "test") & (pc.field("channel") == "all")
    rows = _read_rows(ranks_uri, schema.RANKS, selected, ["user"])
    return np.unique(rows["user"].to_numpy())


def evenly_spaced(users: Counts) -> Counts:
    """Return NUM_USERS of the users in equal steps, or all if there are fewer."""
    count = min(NUM_USERS, len(users))
    return users[np.arange(count) * len(users) // max(count, 1)]


def first_ranks(ranks_uri: str, users: Counts) -> dict[int, dict[str, float]]:
    """Read the rank of each user's first test target, by user and channel."""
    ranks: dict[int, dict[str, float]] = {user: {} for user in users.tolist()}
    selected = (pc.field("split") == "test") & pc.field("user").isin(users.tolist())
    rows = _read_rows(ranks_uri, schema.RANKS, selected, ["user", "channel", "rank"])
    for row in rows.to_pylist():
        ranks[row["user"]].setdefault(row["channel"], row["rank"])
    return ranks


def top_by_channel(
    trained: TrainedModel, histories: list[History], settings: EvalConfig
) -> dict[str, list[list[int]]]:
    """Return the TOP items of each history by channel, highest score first.

    Seen items are left out if `eval.exclude_seen` is set.
    """
    if not histories:
        return {}
    queries, device = trained.queries(histories), trained.item_vectors().device
    count = min(TOP, trained.num_items)
    seen = torch.from_numpy(seen_pairs(histories if settings.exclude_seen else [])).to(device)
    parts = [(name, queries, weights) for name, weights in trained.sums.items()]
    singles = [name for name in trained.channels if name != SEEN]
    parts += [(name, queries.only(n), torch.ones(1)) for n, name in enumerate(singles)]
    top = {}
    for name, part, weights in parts:
        scores, items = top_k_items(part, weights, count, settings.item_block, seen)
        is_item = scores > -torch.inf
        top[name] = [row[kept].tolist() for row, kept in zip(items, is_item, strict=True)]
    return top


def nearest_neighbors(
    experiment: Experiment, modality: str, items: Sequence[int]
) -> dict[int, list[int]]:
    """Read the nearest neighbors, of those that the model reads, by item that has the modality."""
    count = min(NEIGHBORS, experiment.model.neighbors_read)
    uri = tables.table_uri(experiment.root, table_names.neighbors_name(experiment, modality))
    selected = pc.field("item").isin(items)
    rows = _read_rows(uri, schema.NEIGHBORS, selected, ["item", "neighbors"]).to_pylist()
    return {row["item"]: row["neighbors"][:count] for row in rows}


def read_items(experiment: Experiment, items: set[int]) -> dict[int, Item]:
    """Read item id and title of items."""
    uri = tables.table_uri(experiment.root, "items")
    selected = pc.field("item").isin(sorted(items))
    rows = _read_rows(uri, schema.ITEMS, selected, ["item", "item_id", "title"]).to_pylist()
    return {row["item"]: Item(row["item_id"], (row["title"] or "")[:TITLE] or None) for row in rows}


def _read_rows(
    uri: str, table_schema: pa.Schema, selected: pc.Expression, columns: list[str]
) -> pa.Table:
    """Read the selected rows of a table, in its order."""
    paths = tables.data_files(uri, tables.open_table(uri))
    filesystem, _ = files.file_system(uri)
    dataset = ds.dataset(paths, table_schema, format="parquet", filesystem=filesystem)
    return dataset.to_table(columns, selected)
