"""Rows that other ranks own: read them, and send gradients back.

A step reads distinct rows. Their ids go to the owners once, in a background thread; the rows come
back with every batch, and their gradients return by the same plan.

R rows that this rank reads, S rows of its own that the ranks read.
"""

import torch
from torch import Tensor

from training.data.plans import Plan
from training.sharding.ownership import Shards
from training.sharding.peers import Peers


def plan_rows(ids: Tensor, shards: Shards, planner: Peers) -> Plan:
    """Plan the gather of rows of the items, which ascend, from their owners. Collective."""
    received = shards.counts(ids)
    sent = planner.swap_counts(received)
    wanted = planner.swap("ids", ids, received, sent) - shards.first
    return Plan(ids, received, wanted, sent)


def read_rows(plan: Plan, own: Tensor, peers: Peers) -> Tensor:
    """Gather the rows of the plan's items [R, ...] from their owners. Collective.

    `own` are the rows of this rank.
    """
    return peers.swap("rows", own.index_select(0, plan.wanted), plan.sent, plan.received)


def add_rows(plan: Plan, gradient: Tensor, out: Tensor, peers: Peers) -> None:
    """Scatter the gradient of the rows [R, ...] to their owners, and add it to `out`. Collective.

    The ranks' parts are added one by one, so that the sums have one order on a GPU too.
    """
    found = peers.swap("gradients", gradient, plan.received, plan.sent)
    parts = zip(torch.split(plan.wanted, plan.sent), torch.split(found, plan.sent), strict=True)
    for rows, part in parts:
        out.index_add_(0, rows, part)
