"""Training steps whose sizes are counted, for the formulas of `benchmarks.sizes`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from benchmarks.catalogue.events import Catalogue
from benchmarks.catalogue.tables import TableMaker
from benchmarks.sizes.shape import Counts
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from training.data.batch import Batch
from training.data.item_tables import ItemTables, load_item_tables
from training.data.sequences import SequenceReader
from training.data.sparse import SparseMatrix
from training.distributed import engine as ds
from training.models.registry import build_model
from training.sharding import ownership
from training.sharding.own_tables import load_own_tables
from training.sharding.owners import owners_of
from training.step import share_of, take_step

CPU = torch.device("cpu")
SIZES = (100, 230, 500)
SAMPLED = {"loss": "sampled", "num_negatives": 9}


def made_experiment(folder: Path, items: int, train: dict[str, Any], dim: int = 8) -> Experiment:
    """Return MDSRec with interest centers on the made catalogue of so many items."""
    content = {
        "name": "counted",
        "root": str(folder / f"items-{items}"),
        "input": {"edition": "2018", "reviews": ["none.json"]},
        "features": {m: {"vectors": "none.parquet"} for m in ("text", "image")},
        "graph": {"max_neighbors": 5, "max_cooccurrences": 20},
        "model": {
            "dim": dim,
            "inner_dim": 2 * dim,
            "num_neighbors": 5,
            "num_centers": 4,
            "max_length": 10,
            "memory": False,
        },
        "train": {"batch_size": 60, "item_table": "sharded", "device": "cpu", **train},
    }
    return experiment_from(content, source="test")


def write_made_tables(folder: Path) -> None:
    """Write the made catalogues of all sizes."""
    for items in SIZES:
        experiment = made_experiment(folder, items, SAMPLED)
        TableMaker(experiment, Catalogue(items, 40, longest=30), 6, 4).write_all()


def bytes_of_steps(folder: str) -> dict[str, Any]:
    """Take a sharded step of each size and loss -> bytes sent by this rank, and what it counted."""
    ownership.BLOCK = 4
    found = {}
    for items in SIZES:
        for loss, train in (("sampled", SAMPLED), ("full", {})):
            experiment = made_experiment(Path(folder), items, train)
            found[f"{items} {loss}"] = _step(experiment, items)
    return found


def _step(experiment: Experiment, items: int) -> dict[str, Any]:
    owners = owners_of(items, 5)
    model = build_model(experiment, load_own_tables(experiment, owners))
    model.owners = owners
    model.initialize(0)
    engine = ds.initialize(model, experiment, CPU)
    engine.train()
    owners.planner.bytes_sent.clear()
    step = next(SequenceReader(experiment).steps(0))
    share = share_of(engine.module, experiment, step, (0, 0), CPU)
    take_step(engine, experiment, share)
    sent = {**owners.planner.bytes_sent, **owners.peers.bytes_sent}
    overlapping = owners.planner.bytes_sent.keys() & owners.peers.bytes_sent.keys()
    assert not overlapping
    counts = _counts(share.batches[0], load_item_tables(experiment), owners.shards.bounds)
    return {"sent": sent, "counts": list(counts)}


def _counts(batch: Batch, tables: ItemTables, bounds: np.ndarray[Any, Any]) -> Counts:
    """Count a step from what each rank's batch names, and the whole graphs."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    graphs = [m.adjacency for m in tables.modalities.values()]
    mine = {
        "rows": batch.row_ids.numpy(),
        "selected": [batch.items.numpy()],
        "prefixes": len(batch.targets),
    }
    if batch.scored is not None:
        mine["selected"].append(batch.scored.items.numpy())
    everyone: list[Any] = [None] * world_size
    distributed.all_gather_object(everyone, mine)
    others = [one for number, one in enumerate(everyone) if number != rank]

    def own(ids: np.ndarray[Any, Any], of: int = rank) -> np.ndarray[Any, Any]:
        return ids[(ids >= bounds[of]) & (ids < bounds[of + 1])]

    halos = [_halo(graphs, bounds[r], bounds[r + 1]) for r in range(world_size)]
    lent = [own(ids) for other in others for ids in other["selected"]]
    selected = mine["selected"]
    return Counts(
        *batch.item_index.shape,
        prefixes=mine["prefixes"],
        prefixes_of_others=sum(other["prefixes"] for other in others),
        items=len(batch.items),
        items_of_others=sum(len(other["selected"][0]) for other in others),
        near_entries=int(batch.sums["near"].entries.starts[-1]),
        scored=0 if batch.scored is None else len(batch.scored.items),
        rows=len(mine["rows"]),
        rows_read=len(mine["rows"]) - len(own(mine["rows"])),
        rows_lent=sum(len(own(other["rows"])) for other in others),
        list_entries=sum(_entries(graph, ids) for graph in graphs for ids in selected),
        lists_read=len(graphs) * sum(len(ids) - len(own(ids)) for ids in selected),
        lists_lent=len(graphs) * sum(map(len, lent)),
        entries_lent=sum(_entries(graph, ids) for graph in graphs for ids in lent),
        halo_read=len(halos[rank]),
        halo_lent=sum(len(own(halo)) for number, halo in enumerate(halos) if number != rank),
    )


def _entries(graph: SparseMatrix, items: np.ndarray[Any, Any]) -> int:
    return int((graph.starts[items + 1] - graph.starts[items]).sum())


def _halo(graphs: list[SparseMatrix], first: int, last: int) -> np.ndarray[Any, Any]:
    """Return the neighbors of the items first <= item < last that are not among them."""
    parts = [graph.columns[graph.starts[first] : graph.starts[last]] for graph in graphs]
    columns = np.unique(np.concatenate(parts))
    return columns[(columns < first) | (columns >= last)]
