"""Ranks that read their shares of the item tables hold together what one rank reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from scipy.sparse import csr_array
from small_dataset import NUM_ITEMS, small_experiment, write_dataset
from torch import Tensor

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from training.data.item_tables import load_item_tables
from training.data.sparse import SparseMatrix
from training.sharding import ownership
from training.sharding.own_rows import OwnRows
from training.sharding.own_tables import load_own_tables
from training.sharding.owners import owners_of
from training.sharding.sums import OwnColumns

NORMALIZED = ("row", "symmetric", "none")


def dense(matrix: Any, num_columns: int) -> Tensor:
    assert isinstance(matrix, SparseMatrix)
    arrays, shape = (matrix.weights, matrix.columns, matrix.starts), (matrix.num_rows, num_columns)
    return torch.from_numpy(csr_array(arrays, shape=shape).toarray())


def experiment_with(root: Path, normalize: str) -> Experiment:
    """Return an experiment with one center, so that its cells are sums over all ranks."""
    graph = {"max_neighbors": 6, "normalize": normalize}
    return small_experiment(root, graph=graph, model={"num_centers": 1})


def shares_of(resolved: list[dict[str, Any]], block: int) -> list[dict[str, Tensor]]:
    """Return, dense, what this rank holds of N(O), and of Ahat and C Ahat of both modalities."""
    ownership.BLOCK, found = block, []
    for content in resolved:
        owners = owners_of(NUM_ITEMS, timeout_minutes=5)
        own = load_own_tables(experiment_from(content, source="t"), owners)
        num_own = owners.shards.num_own
        assert isinstance(own.cooccurrence, OwnColumns)
        near = torch.zeros(NUM_ITEMS, num_own)
        near[own.cooccurrence.items] = dense(own.cooccurrence._rows, num_own)[:-1]
        parts = {"near": near}
        for name, modality in own.modalities.items():
            assert isinstance(modality.adjacency, OwnRows)
            parts[name] = dense(modality.adjacency.own, NUM_ITEMS)
            parts[f"centers of {name}"] = dense(modality.centers, num_own)
        found.append(parts)
    return found


@pytest.mark.parametrize("block", [4, 32])
def test_shares_of_three_ranks_join_to_the_whole_tables(tmp_path: Path, block: int) -> None:
    experiments = [experiment_with(tmp_path, how) for how in NORMALIZED]
    for experiment in experiments:
        write_dataset(experiment)
    ranks = on_ranks(3, shares_of, [e.resolved() for e in experiments], block)
    for experiment, *found in zip(experiments, *ranks, strict=True):
        whole = load_item_tables(experiment)
        near = torch.cat([rank["near"] for rank in found], dim=1)
        assert torch.equal(near, dense(whole.cooccurrence, NUM_ITEMS))
        for name, modality in whole.modalities.items():
            graph = torch.cat([rank[name] for rank in found])
            assert torch.equal(graph, dense(modality.adjacency, NUM_ITEMS))
            centers = torch.cat([rank[f"centers of {name}"] for rank in found], dim=1)
            assert torch.equal(centers, dense(modality.centers, NUM_ITEMS))
            assert np.unique(centers[centers > 0]).size > 3
