"""Loading of a trained run by several processes, each with the share of its own items."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.jobs import promises
from mdsrec.run_paths import RunPaths
from training.checkpoints.finite_weights import check_finite
from training.checkpoints.stored_weights import StoredWeights
from training.checkpoints.weights_in_use import weights_in_use
from training.data import column_blocks
from training.inference import check_can_load, check_dataset, set_weights, trained_model
from training.models.base import Model, OwnItemVectors
from training.models.registry import build_model
from training.own_share.own_memory import load_own_memory
from training.own_share.trained_share import TrainedShare
from training.sharding.exchange import plan_rows, read_rows
from training.sharding.item_shards import EMBEDDING
from training.sharding.owners import Owners, owners_of
from training.sharding.ranking_tables import load_ranking_tables


def load_share(experiment: Experiment, device: torch.device) -> TrainedShare:
    """Load the share of this process of what `load_trained` loads. Collective.

    InputError as from there. Of weights with a row for each item only the own rows are held.
    """
    check_can_load(experiment)
    num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
    owners = owners_of(num_items, experiment.train.timeout_minutes)
    item_tables = load_ranking_tables(experiment, owners)
    memory = load_own_memory(experiment, owners) if experiment.model.memory else None
    model, own = None, OwnItemVectors(torch.empty(0, owners.shards.num_own, 1), _no_tokens, [])
    if experiment.model.is_trained:
        stored = weights_in_use(RunPaths.of(experiment))
        check_dataset(experiment, stored.metadata.get("dataset"), item_tables.fingerprint)
        model = build_model(experiment, item_tables)
        model.owners = owners
        _set_own_weights(model, stored, owners)
        promises.check_file(stored.uri)
        model.to(device).eval()
        own = model.own_item_vectors(_embedding_blocks(model, owners))
    whole = trained_model(model, memory, item_tables)
    fingerprint, weight_of = whole.dataset_fingerprint, whole.weight_of
    return TrainedShare(model, memory, num_items, fingerprint, weight_of, owners=owners, own=own)


def _no_tokens(items: Tensor) -> list[Tensor]:
    return []


def _set_own_weights(model: Model, stored: StoredWeights, owners: Owners) -> None:
    """Set the weights of which this process holds the own rows. Collective.

    InputError on every process if a row of any is not finite, or if the file does not fit.
    """
    first, last = owners.shards.first, owners.shards.last
    weights = {
        name: stored.rows(name, first, last)
        if name in model.item_parameters
        else stored.tensor(name)
        for name in stored.shapes
    }
    set_weights(model, weights, stored.uri)
    check_finite(model, stored.uri, owners)


def _embedding_blocks(model: Model, owners: Owners) -> Iterator[Tensor]:
    """Yield the rows of the item embedding, from their owners, a block of columns at a time.

    Collective. Every process takes all of them.
    """
    size, num_items = column_blocks.COLUMNS, owners.shards.num_items
    own: Tensor = getattr(model, EMBEDDING)
    for first in range(0, num_items, size):
        items = torch.arange(first, min(first + size, num_items))
        plan = plan_rows(items, owners.shards, owners.planner)
        plan = plan._replace(wanted=plan.wanted.to(own.device))
        yield read_rows(plan, own.detach(), owners.peers)
