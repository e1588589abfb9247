"""Counted sizes of a rank's steps and graphs, for the formulas of `benchmarks.sizes`."""

import torch
from torch import Tensor

from benchmarks.sizes.shape import Counts, Graphs
from mdsrec.config import Experiment
from training.data.item_tables import ItemTables
from training.data.sparse import SparseMatrix
from training.models.base import Model
from training.sharding.own_rows import OwnRows
from training.sharding.sums import OwnColumns
from training.step import Share


def counts_of(share: Share, model: Model, experiment: Experiment) -> Counts:
    """Count a step of one batch. The peers ask for as many lists as this rank asks of them."""
    (batch,), owners = share.batches, model.owners
    assert owners is not None and batch.plan is not None and batch.entries is not None
    rank, plan, near = owners.shards.rank, batch.plan, batch.sums["near"]
    scored = torch.empty(0) if batch.scored is None else batch.scored.items
    num_modalities = len(experiment.modalities)

    def remote(ids: Tensor) -> int:
        return len(ids) - owners.shards.counts(ids)[rank] if len(ids) else 0

    lists = num_modalities * (remote(batch.items) + remote(scored))
    selected = {**batch.entries, **(batch.scored_entries or {})}
    by_list = [len(e.columns) for n, e in selected.items() if n not in ("own", "id")]
    in_all = num_modalities * (len(batch.items) + len(scored))
    list_entries = sum(by_list)
    halo = owners.halo
    return Counts(
        sequences=batch.item_index.shape[0],
        length=batch.item_index.shape[1],
        prefixes=len(batch.targets),
        prefixes_of_others=(owners.shards.world_size - 1) * len(batch.targets),
        items=len(batch.items),
        items_of_others=sum(near.counts) - len(batch.items),
        near_entries=len(near.entries.columns),
        scored=len(scored),
        rows=len(plan.ids),
        rows_read=len(plan.ids) - plan.received[rank],
        rows_lent=len(plan.wanted) - plan.sent[rank],
        list_entries=list_entries,
        lists_read=lists,
        lists_lent=lists,
        entries_lent=round(lists * list_entries / in_all),
        halo_read=0 if halo is None else len(halo.ids),
        halo_lent=0 if halo is None else len(halo.wanted),
    )


def graphs_of(model: Model, tables: ItemTables) -> Graphs:
    """Count the entries of the graphs that a rank holds."""
    near, neighbors = tables.cooccurrence, 0
    assert isinstance(near, OwnColumns)
    for modality in tables.modalities.values():
        assert isinstance(modality.adjacency, OwnRows)
        neighbors += len(modality.adjacency.own.columns)
    centers = [rows.matrix for rows in model.center_rows.values()]
    return Graphs(neighbors, near.num_entries, len(near.items), _entries(centers))


def _entries(matrices: list[SparseMatrix]) -> int:
    return sum(len(matrix.columns) for matrix in matrices)
