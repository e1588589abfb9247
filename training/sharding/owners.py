"""The owners of items, and the collectives that exchange rows with them."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from torch import distributed

from mdsrec.arrays import Ints
from training.data.item_order import ItemOrder
from training.data.plans import Plan
from training.sharding.ownership import Shards
from training.sharding.peers import Peers


@dataclass
class Owners:
    """The items of this rank, and its collectives with the other ranks."""

    shards: Shards
    peers: Peers  # of the training
    planner: Peers  # of the thread that prepares batches, so that the two never mix
    order: ItemOrder
    halo: Plan | None = None  # neighbors of own items that others own

    @cached_property
    def items(self) -> Ints:
        """Return the own items, in the order of their places -> [n]."""
        return self.order.items_between(self.shards.first, self.shards.last)

    def take_bytes_sent(self) -> dict[str, int]:
        """Return the bytes that this rank sent since the last call, by what they were for."""
        total = Counter(self.peers.take_bytes_sent())
        total.update(self.planner.take_bytes_sent())
        return dict(total.most_common())


def rank_and_world_size(owners: Owners | None) -> tuple[int, int]:
    """Return the number of this rank and how many ranks there are; None: by the process group."""
    if owners is None:
        return distributed.get_rank(), distributed.get_world_size()
    return owners.shards.rank, owners.shards.world_size


def owners_of(num_items: int, timeout_minutes: float, order: ItemOrder | None = None) -> Owners:
    """Return the owners of all items, in the process group that exists already. Collective."""
    world_size, rank = distributed.get_world_size(), distributed.get_rank()
    timeout = timedelta(minutes=timeout_minutes)
    planning = numbers = None
    if world_size > 1:  # the default group may be NCCL, which sends no host memory
        planning, numbers = (distributed.new_group(backend="gloo", timeout=timeout) for _ in "12")
    shards = Shards(num_items, world_size, rank)
    peers, planner = Peers(on_host=numbers), Peers(planning, planning)
    return Owners(shards, peers, planner, order or ItemOrder())
