"""Cases of a trained run: the top items of each channel for a few users, spaced evenly over all."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from evaluation.actors.shard_worker import AskedWorker
from evaluation.cases import TOP, Case, Cases, Item
from evaluation.metrics.rank_parts import rank_parts
from evaluation.pool import ask_worker
from evaluation.ranking import seen_pairs
from evaluation.report.pictures import picture_folder
from evaluation.stored.table_rows import TableRows
from mdsrec import schema, table_names, tables
from mdsrec.arrays import Counts
from mdsrec.config import EvalConfig, Experiment
from mdsrec.run_paths import RunPaths
from mdsrec.tables import Manifest
from training.data.sequences import History, Target
from training.inference import SEEN, TrainedModel

NUM_USERS = 200
SHOWN_EVENTS = 6  # the last ones of a history
NEIGHBORS = 4
TITLE = 160  # characters

Ranks = dict[str, float]  # by channel


class TopItems(NamedTuple):
    """The first test target of some users, and the TOP items of each channel for them."""

    targets: list[Target]
    items: dict[str, list[list[int]]]  # by channel, a list for each user


class TopWorker(AskedWorker):
    """A job that finds the top items of each channel; `options` are users."""

    def answer(self) -> TopItems:
        users: list[int] = self.options
        targets = [self.reader.targets(user, user + 1, "test")[0] for user in users]
        histories = [target.history for target in targets]
        return TopItems(targets, top_by_channel(self.trained, histories, self.experiment.eval))


def case_study(experiment: Experiment, weight_of: Mapping[str, float], ranks: Manifest) -> Cases:
    """Build cases of the first test event of NUM_USERS users.

    The choice of users depends only on the data. Ranks are read from the ranks table `ranks`.
    """
    rank_of = first_ranks(RunPaths.of(experiment).ranks)
    targets, top = TopItems([], {})
    if rank_of:
        targets, top = ask_worker(TopWorker, experiment, weight_of, [*rank_of])
    graphs = experiment.modalities if experiment.model.neighbors_read else ()
    target_items = [target.target for target in targets]
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
        ranks=ranks.fingerprint,
        pictures=picture_folder(experiment),
        cases=cases,
        items=read_items(experiment, set().union(*(case.items() for case in cases))),
    )


def first_ranks(ranks_uri: str) -> dict[int, Ranks]:
    """Return the rank of the first test target of NUM_USERS users, by user and channel.

    Users are spaced evenly over those with a test event. The table is read twice: to count these,
    then to find the chosen ones.
    """
    count = sum(len(np.unique(part.select("test", "all").users)) for part in rank_parts(ranks_uri))
    places, before = evenly_spaced(count), 0
    ranks: dict[int, Ranks] = {}
    for part in rank_parts(ranks_uri):
        users = np.unique(part.select("test", "all").users)
        inside = places[(places >= before) & (places < before + len(users))] - before
        before += len(users)
        for channel in part.channels() if len(inside) else ():
            rows = part.select("test", channel)
            first = np.searchsorted(rows.users, users[inside])
            for user, rank in zip(users[inside].tolist(), rows.ranks[first].tolist(), strict=True):
                ranks.setdefault(user, {})[channel] = rank
        if before == count:
            break
    return ranks


def evenly_spaced(total: int) -> Counts:
    """Return NUM_USERS of so many places in equal steps, or all if there are fewer."""
    count = min(NUM_USERS, total)
    return np.arange(count) * total // max(count, 1)


def top_by_channel(
    trained: TrainedModel, histories: list[History], settings: EvalConfig
) -> dict[str, list[list[int]]]:
    """Return the TOP items of each history by channel, highest score first.

    Seen items are left out if `eval.exclude_seen` is set.
    """
    if not histories:
        return {}
    ranking, count = trained.ranking(histories), min(TOP, trained.num_items)
    seen = torch.from_numpy(seen_pairs(histories if settings.exclude_seen else []))
    parts = [(name, ranking, weights) for name, weights in trained.sums.items()]
    singles = [name for name in trained.channels if name != SEEN]
    parts += [(name, ranking.only(n), torch.ones(1)) for n, name in enumerate(singles)]
    top = {}
    for name, part, weights in parts:
        found = part.top(weights, count, settings.items_together, seen)
        scores, items = (each.cpu() for each in found)
        is_item = scores > -torch.inf
        top[name] = [row[kept].tolist() for row, kept in zip(items, is_item, strict=True)]
    return top


def nearest_neighbors(
    experiment: Experiment, modality: str, items: Sequence[int]
) -> dict[int, list[int]]:
    """Read the nearest neighbors, of those that the model reads, by item that has the modality."""
    count = min(NEIGHBORS, experiment.model.neighbors_read)
    uri = tables.table_uri(experiment.root, table_names.neighbors_name(experiment, modality))
    rows = TableRows(uri, schema.NEIGHBORS, ["item", "neighbors"])
    found = rows.where("item", np.unique(np.array(items, dtype=np.int32))).to_pylist()
    return {row["item"]: row["neighbors"][:count] for row in found}


def read_items(experiment: Experiment, items: set[int]) -> dict[int, Item]:
    """Read item id and title of items."""
    uri = tables.table_uri(experiment.root, "items")
    table = TableRows(uri, schema.ITEMS, ["item", "item_id", "title"])
    rows = table.at(np.array(sorted(items), dtype=np.int64)).to_pylist()
    return {row["item"]: Item(row["item_id"], (row["title"] or "")[:TITLE] or None) for row in rows}
