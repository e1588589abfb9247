"""What each channel of a trained run offers to a few users, spread evenly over all.

B users, C channels, X items, D width.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
from numpy.typing import NDArray

from evaluation.cases import TOP, Case, Cases, Item
from evaluation.ranking import seen_pairs
from evaluation.report.pictures import picture_folder
from mdsrec import files, schema, table_names, tables
from mdsrec.config import EvalConfig, Experiment
from training.data.sequences import SequenceReader
from training.inference import Trained
from training.layers.scoring import top_items

SAMPLED = 200  # users of which cases.json tells
HISTORY = 6  # events that it shows of a user
NEIGHBORS = 4
TITLE = 160  # characters

Users = NDArray[np.int64]


def case_study(experiment: Experiment, trained: Trained) -> Cases:
    """The first test event of SAMPLED users: they follow from the data, their ranks are those of
    the ranks table.
    """
    uri = f"{table_names.run_uri(experiment)}/ranks"
    users = spread(test_users(uri))
    reader = SequenceReader(experiment)
    targets = [reader.targets(user, user + 1, "test")[0] for user in users.tolist()]
    wanted = [target.target for target in targets]
    rank_of = first_ranks(uri, users)
    top_of = tops(trained, [target.history for target in targets], experiment.eval)
    graphs = experiment.modalities if experiment.model.neighbors_read else ()
    near = {modality: neighbors(experiment, modality, wanted) for modality in graphs}
    cases = [
        Case(
            user=target.user,
            num_events=len(target.history),
            history=target.history[-HISTORY:].tolist(),
            target=target.target,
            neighbors={m: near[m].get(target.target, []) for m in near},
            rank=rank_of[target.user],
            top={channel: top[place] for channel, top in top_of.items()},
        )
        for place, target in enumerate(targets)
    ]
    return Cases(
        ranks=tables.open_table(uri).fingerprint,
        pictures=picture_folder(experiment),
        cases=cases,
        items=described(experiment, set().union(*(case.items() for case in cases))),
    )


def test_users(ranks_uri: str) -> Users:
    """Users with a test event, ascending."""
    chosen = (pc.field("split") == "test") & (pc.field("channel") == "all")
    return np.unique(_rows(ranks_uri, schema.RANKS, chosen, ["user"])["user"].to_numpy())


def spread(users: Users) -> Users:
    """SAMPLED of them in equal steps, or all where there are fewer."""
    count = min(SAMPLED, len(users))
    return users[np.arange(count) * len(users) // max(count, 1)]


def first_ranks(ranks_uri: str, users: Users) -> dict[int, dict[str, float]]:
    """By user and channel, the rank of the user's first test target."""
    found: dict[int, dict[str, float]] = {user: {} for user in users.tolist()}
    chosen = (pc.field("split") == "test") & pc.field("user").isin(users.tolist())
    for row in _rows(ranks_uri, schema.RANKS, chosen, ["user", "channel", "rank"]).to_pylist():
        found[row["user"]].setdefault(row["channel"], row["rank"])
    return found


def tops(
    trained: Trained, histories: list[NDArray[np.int32]], settings: EvalConfig
) -> dict[str, list[list[int]]]:
    """By channel, the TOP items of each history, highest score first, by the rule on seen items."""
    if not histories:
        return {}
    items_CXD, weights_C = trained.item_vectors(), trained.weights
    queries_BCD = trained.user_vectors(histories)
    count = min(TOP, trained.num_items)
    seen = torch.from_numpy(seen_pairs(histories if settings.exclude_seen else []))
    alone = weights_C.new_ones(1)
    parts = [(queries_BCD, items_CXD, weights_C)]
    parts += [
        (queries_BCD[:, c : c + 1], items_CXD[c : c + 1], alone) for c in range(len(weights_C))
    ]
    found = {}
    for channel, part in zip(trained.channels, parts, strict=True):
        scores, items = top_items(*part, count, settings.item_block, seen)
        there = scores > -torch.inf
        found[channel] = [of[kept].tolist() for of, kept in zip(items, there, strict=True)]
    return found


def neighbors(experiment: Experiment, modality: str, items: Sequence[int]) -> dict[int, list[int]]:
    """The nearest of the neighbours that the model reads, of each item that has the modality."""
    count = min(NEIGHBORS, experiment.model.neighbors_read)
    uri = tables.table_uri(experiment.root, table_names.neighbors_name(experiment, modality))
    chosen = pc.field("item").isin(items)
    rows = _rows(uri, schema.NEIGHBORS, chosen, ["item", "neighbors"]).to_pylist()
    return {row["item"]: row["neighbors"][:count] for row in rows}


def described(experiment: Experiment, items: set[int]) -> dict[int, Item]:
    uri = tables.table_uri(experiment.root, "items")
    chosen = pc.field("item").isin(sorted(items))
    rows = _rows(uri, schema.ITEMS, chosen, ["item", "asin", "title"]).to_pylist()
    return {row["item"]: Item(row["asin"], (row["title"] or "")[:TITLE] or None) for row in rows}


def _rows(uri: str, table_schema: pa.Schema, chosen: pc.Expression, columns: list[str]) -> pa.Table:
    """The chosen rows of a table, in its order."""
    paths = tables.data_files(uri, tables.open_table(uri))
    filesystem, _ = files.file_system(uri)
    dataset = ds.dataset(paths, table_schema, format="parquet", filesystem=filesystem)
    return dataset.to_table(columns, chosen)
