"""The exchange between the owners of items: every collective form equals its plain twin.

Three ranks try catalogues of one item, of fewer items than ranks, with ranks that own nothing, read
nothing, or read every item twice.
"""

from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from hypothesis import given
from hypothesis import strategies as st
from sharded_worlds import FORMS, D, Pairs, W, World

from training.sharding import ownership
from training.sharding.exchange import add_rows, plan_rows, read_rows
from training.sharding.ownership import Shards
from training.sharding.sums import add_product_gradient, sharded_product

WORLDS = [(1, 1), (1, 8), (2, 1), (5, 2), (7, 1), (40, 4), (40, 16), (40, 64)]  # items, BLOCK


@given(st.integers(1, 10**7), st.integers(1, 70))
def test_ranges_are_whole_blocks_in_order_and_nearly_equal(num_items: int, ranks: int) -> None:
    bounds = Shards(num_items, ranks, 0).bounds
    assert bounds[0] == 0 and bounds[-1] == num_items
    assert all(edge % ownership.BLOCK == 0 or edge == num_items for edge in bounds)
    lengths = np.diff(bounds)
    assert lengths.min() >= 0 and np.ptp(-(-lengths // ownership.BLOCK)) <= 1
    assert lengths.sum() == num_items


@given(st.data(), st.integers(1, 5000), st.integers(1, 9))
def test_an_item_belongs_to_the_rank_whose_range_has_it(
    data: st.DataObject, num_items: int, ranks: int
) -> None:
    items = np.array(sorted(data.draw(st.sets(st.integers(0, num_items - 1)))), dtype=np.int64)
    shards = [Shards(num_items, ranks, rank) for rank in range(ranks)]
    inside = [items[(items >= s.first) & (items < s.last)] for s in shards]
    assert [s.num_own for s in shards] == [s.last - s.first for s in shards]
    assert shards[0].counts(torch.from_numpy(items)) == [len(own) for own in inside]
    expected = np.repeat(np.arange(ranks), [len(own) for own in inside])
    assert shards[0].owners(items).tolist() == expected.tolist()


def everything() -> dict[str, list[Pairs]]:
    """Return the pairs of every form in every world, and the bytes of a tiny plan."""
    found = {
        form.__name__: [form(World(seed, *size)) for seed, size in enumerate(WORLDS)]
        for form in FORMS
    }
    return found | {"bytes": bytes_of_a_tiny_plan()}  # type: ignore[dict-item]


def bytes_of_a_tiny_plan() -> dict[str, int]:
    """Exchange rows of 16 bytes and ids of 8; rank r owns item r."""
    world = World(0, 3, 1)
    ids = torch.tensor([[0, 1, 2], [1], []][world.rank], dtype=torch.int64)
    plan = plan_rows(ids, world.shards, world.planner)
    read_rows(plan, world.E[world.own], world.peers)
    add_rows(plan, world.floats(len(ids), D), torch.zeros(1, D).double(), world.peers)
    items = torch.tensor([[1, 2], [], [0]][world.rank], dtype=torch.int64)
    sum_plan = world.sum_plan(torch.ones(3, 3).double(), items)
    sharded_product(sum_plan, world.E[world.own], world.peers)
    add_product_gradient(
        sum_plan, world.floats(len(items), D), torch.zeros(1, D).double(), world.peers
    )
    world.peers.sum("centers", world.floats(5, D))
    return {**world.peers.bytes_sent, "asked": world.planner.bytes_sent["ids"]}


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    ranks: list[dict[str, Any]] = on_ranks(W, everything)
    return ranks


@pytest.mark.parametrize("world", range(len(WORLDS)), ids=map(str, WORLDS))
@pytest.mark.parametrize("form", [form.__name__ for form in FORMS])
def test_it_equals_its_plain_twin(found: list[dict[str, Any]], form: str, world: int) -> None:
    for rank in found:
        for one, other in rank[form][world]:
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("form", [form.__name__ for form in FORMS])
def test_the_worlds_try_every_share(found: list[dict[str, Any]], form: str) -> None:
    """Some rank gets nothing, and some gets something, so no comparison is of nothing."""
    sizes = [one.numel() for rank in found for pairs in rank[form] for one, _ in pairs]
    assert 0 in sizes and max(sizes) > 3


def test_the_bytes_that_leave_a_rank_are_counted(found: list[dict[str, Any]]) -> None:
    row, number, sums = 16, 8, 2 * 5 * 8
    assert found[0]["bytes"] == {
        "rows": 0,  # nobody else reads item 0
        "gradients": 2 * row,  # of items 1 and 2
        "sums": row,  # to rank 2
        "gradients of sums": 2 * 2 * row,  # of two rows, to two ranks
        "centers": sums,
        "asked": 2 * number + 2 * 2 * number,  # for rows, then for sums
    }
    assert found[1]["bytes"] == {
        "rows": row,
        "gradients": 0,
        "sums": 3 * row,
        "gradients of sums": 0,
        "centers": sums,
        "asked": 0,
    }
    assert found[2]["bytes"] == {
        "rows": row,
        "gradients": 0,
        "sums": 2 * row,
        "gradients of sums": 2 * row,
        "centers": sums,
        "asked": 2 * number,
    }
