"""Everything that a rank needs to work with the owners of items."""

from dataclasses import dataclass
from datetime import timedelta

from torch import distributed

from training.data.plans import Plan
from training.sharding.ownership import Shards
from training.sharding.peers import Peers


@dataclass
class Owners:
    """The items of this rank, and how it talks to the others."""

    shards: Shards
    peers: Peers  # of the training
    planner: Peers  # of the thread that prepares batches, so that the two never mix
    halo: Plan | None = None  # neighbors of own items that others own


def owners_of(num_items: int, timeout_minutes: float) -> Owners:
    """Return the owners of all items, in the process group that exists already. Collective."""
    world_size, rank = distributed.get_world_size(), distributed.get_rank()
    timeout = timedelta(minutes=timeout_minutes)
    group = distributed.new_group(backend="gloo", timeout=timeout) if world_size > 1 else None
    return Owners(Shards(num_items, world_size, rank), Peers(), Peers(group))
