"""Faults planted into trainings on ranks that own items."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, distributed

from training import step
from training.data.plans import Plan
from training.sharding import item_shards
from training.sharding.item_shards import ItemShards


@contextmanager
def patched(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def gradients_are_sums() -> Iterator[None]:
    """Do not divide the gradients of rows by the number of ranks."""
    gather = ItemShards.gather_gradients

    def gather_only(self: ItemShards) -> None:
        gather(self)
        self.scale_gradients(distributed.get_world_size())

    with patched(ItemShards, "gather_gradients", gather_only):
        yield


@contextmanager
def halo_is_one_step_old() -> Iterator[None]:
    """Let a step score with the rows of the halo that the step before read."""
    read, own_items, halos = item_shards.read_rows, ItemShards._own_items, []

    def read_late(*arguments: Any) -> Tensor:
        halos.append(read(*arguments))
        return halos[max(0, len(halos) - 2)]

    def own_items_late(*arguments: Any) -> Any:
        with patched(item_shards, "read_rows", read_late):
            return own_items(*arguments)

    with patched(ItemShards, "_own_items", own_items_late):
        yield


@contextmanager
def owner_is_off_by_one() -> Iterator[None]:
    """Let an owner answer with the row behind the one that is wanted."""
    plan_rows = step.plan_rows

    def plan_next(*arguments: Any) -> Plan:
        plan = plan_rows(*arguments)
        num_own = arguments[1].num_own
        return plan._replace(wanted=(plan.wanted + 1) % num_own)

    with patched(step, "plan_rows", plan_next):
        yield


FAULTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "gradients are sums": gradients_are_sums,
    "the halo is one step old": halo_is_one_step_old,
    "an owner is off by one": owner_is_off_by_one,
}
