"""The choice between an item table that is whole on every rank and one that the ranks share."""

import logging
from collections import Counter

import psutil
import torch

from mdsrec.config import Experiment
from training.data.shared_arrays import Ranks, host_of_process

log = logging.getLogger("training")

USABLE = 0.8  # of a device's memory
ENTRY = 8  # bytes of an entry of Ahat
FLOAT = 4  # bytes


def ranks_own_items(
    experiment: Experiment, num_items: int, device: torch.device, ranks: Ranks
) -> bool:
    """Return whether each rank holds only the rows of its own items, and log it. Collective.

    With `train.item_table = "auto"` that is so where the whole table does not fit the device of
    some rank.
    """
    choice, world_size = experiment.train.item_table, len(ranks.gather(None))
    if choice != "auto":
        return choice == "sharded"
    needed = replicated_bytes(experiment, num_items, world_size)
    available = USABLE * min(ranks.gather(_memory(device, ranks)))
    fits = needed <= available
    owns = not fits and world_size > 1 and experiment.can_share_items
    if ranks.rank == 0:
        who = "each rank holds the rows of its own items" if owns else "every rank holds all items"
        text = "train.item_table = auto: %s; the whole table needs %s of %s a rank"
        log.info(text, who, _gib(needed), _gib(available))
    return owns


def replicated_bytes(experiment: Experiment, num_items: int, world_size: int) -> int:
    """Return the bytes that a rank needs on its device for a table of all items.

    They are those of E with its gradient and Adam's moments, of Ahat, and of the vectors of all
    items in a validation.
    """
    network, num_modalities = experiment.network, len(experiment.modalities)
    parts = world_size if experiment.train.zero_stage else 1
    gradient = 0.0 if experiment.steps_by_rows else 1.0
    of_validation = 2 + num_modalities
    tables = network.dim * FLOAT * (1 + gradient + 2 / parts + of_validation)
    needs = experiment.model.needs
    neighbors = experiment.model.neighbors_read + 1 if needs.neighbors else 0
    return round(num_items * (tables + ENTRY * neighbors * num_modalities))


def _memory(device: torch.device, ranks: Ranks) -> int:
    """Return the memory of this rank's device, or its share of the host's. Collective."""
    hosts = ranks.gather(host_of_process())
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    of_host: int = psutil.virtual_memory().total
    return of_host // Counter(hosts)[hosts[ranks.rank]]


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
