"""The engine of a training: item tables, model and initial weights, in the form that fits."""

import torch

from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from training.data.item_order import load_order
from training.data.item_tables import ItemTables, load_item_tables
from training.data.table_checks import check_item_tables
from training.distributed import engine as ds
from training.distributed.control import ControlGroup
from training.distributed.engine_protocol import Engine
from training.models.base import Model
from training.models.registry import build_model
from training.sharding.layout import ranks_own_items
from training.sharding.own_tables import load_own_tables
from training.sharding.owners import owners_of


def build_engine(
    experiment: Experiment, device: torch.device, group: ControlGroup
) -> tuple[Engine[Model], ItemTables]:
    """Load the tables and return an engine with initial weights. Collective.

    InputError on every rank if a table is missing or does not fit.
    """
    num_items = _num_items(experiment, group)
    if ranks_own_items(experiment, num_items, device, group):
        order = load_order(experiment, num_items, group)
        owners = owners_of(num_items, experiment.train.timeout_minutes, order)
        item_tables = load_own_tables(experiment, owners)
    else:
        owners, item_tables = None, load_item_tables(experiment, group)
    model = build_model(experiment, item_tables)
    model.owners = owners
    model.initialize(experiment.seed)
    return ds.initialize(model, experiment, device), item_tables


def _num_items(experiment: Experiment, group: ControlGroup) -> int:
    """Check that all ranks see the same tables -> the number of items. Collective."""
    fingerprints, message = None, None
    try:
        fingerprints = check_item_tables(experiment)
    except InputError as error:
        message = str(error)
    if (first := group.first_message(message)) is not None:
        raise InputError(first)
    if any(found != fingerprints for found in group.gather(fingerprints)):
        raise InputError(f"{experiment.root}/dataset: rebuilt meanwhile: run the command again")
    return tables.open_table(tables.table_uri(experiment.root, "items")).rows
