"""The choice between an item table that is whole on every rank and one that the ranks share."""

import logging
from collections import Counter

import torch

from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.machine import machine_memory
from mdsrec.table_names import features_name
from training.data.shared_arrays import Ranks, host_of_process

log = logging.getLogger("training")

USABLE = 0.8  # of a device's memory
ENTRY = 8  # bytes of an entry of Ahat
BY_COLUMN = 16  # most bytes besides on a GPU, which has the entries by column too
FLOAT = 4  # bytes
NOT_POSSIBLE = (
    "it may not fit; train.item_table = sharded holds it on several workers, with "
    "train.zero_stage 0 to 2, no train.offload and a model of this project"
)


def ranks_own_items(
    experiment: Experiment, num_items: int, device: torch.device, ranks: Ranks
) -> bool:
    """Return whether each rank holds only the rows of its own items. Collective.

    With `train.item_table = "auto"` that is so where the whole table does not fit the device of
    some rank, which is logged.
    """
    if experiment.train.item_table != "auto":
        return experiment.train.item_table == "sharded"
    memory = ranks.gather(_memory(device, ranks))
    on_gpu = device.type == "cuda"
    needed = replicated_bytes(experiment, num_items, len(memory), on_gpu)
    available = USABLE * min(memory)
    if needed <= available:
        return False
    is_possible = len(memory) > 1 and experiment.can_share_items
    if ranks.rank == 0:
        log.log(
            logging.INFO if is_possible else logging.WARNING,
            "the item table needs about %s of %s a worker: %s",
            _gib(needed),
            _gib(available),
            "each worker holds the rows of its own items" if is_possible else NOT_POSSIBLE,
        )
    return is_possible


def replicated_bytes(experiment: Experiment, num_items: int, world_size: int, on_gpu: bool) -> int:
    """Return the bytes that a rank needs on its device for a table of all items.

    They are those of E with its gradient and Adam's moments, of Ahat, of feature vectors, and of
    the vectors of all items in a validation.
    """
    network, num_modalities = experiment.network, len(experiment.modalities)
    parts = world_size if experiment.train.zero_stage else 1
    gradient = 0.0 if experiment.steps_by_rows else 1.0
    of_validation = 2 + num_modalities
    weights = network.dim * FLOAT * (1 + gradient + 2 / parts + of_validation)
    needs = experiment.model.needs
    neighbors = experiment.model.neighbors_read + 1 if needs.neighbors else 0
    features = FLOAT * _feature_width(experiment) if needs.features else 0
    entry = ENTRY + BY_COLUMN if on_gpu else ENTRY
    return round(num_items * (weights + entry * neighbors * num_modalities + features))


def _feature_width(experiment: Experiment) -> int:
    """Return the width of all feature vectors of an item together."""
    uris = (tables.table_uri(experiment.root, features_name(m)) for m in experiment.modalities)
    return sum(int(tables.open_table(uri).counters["width"]) for uri in uris)


def _memory(device: torch.device, ranks: Ranks) -> int:
    """Return the memory of this rank's device, or its share of the host's. Collective."""
    hosts = ranks.gather(host_of_process())
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory() // Counter(hosts)[hosts[ranks.rank]]


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
