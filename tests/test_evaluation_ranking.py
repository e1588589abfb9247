"""Shards, batches, and ranking by popularity."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.baselines import Popularity
from evaluation.pool import shards_of
from evaluation.ranking import rank_targets, seen_pairs
from mdsrec.config import EvalConfig
from training.data.sequences import Target
from training.layers.queries import Queries


class Constant:
    """A model that gives all users and all items the same vector."""

    channels = ("fused", "text")

    def __init__(self, num_items) -> None:
        self.sums = {"all": torch.tensor([1.0, 1.0])}
        self.num_items = num_items
        self.batches: list[int] = []

    def ranking(self, histories):
        self.batches.append(len(histories))
        return Queries(torch.ones(len(histories), 2, 3), torch.ones(2, self.num_items, 3))


def targets_of(users, num_items):
    history = np.array([0], dtype=np.int32)
    return [Target(u, split, u % num_items, history) for u in users for split in ("valid", "test")]


def one_target_per_item(num_items):
    return [Target(0, "test", item, np.array([0], dtype=np.int32)) for item in range(num_items)]


def rank_rows(users, num_items, **changes):
    return rank_targets(
        Constant(num_items),
        {"popularity": Popularity(np.arange(num_items))},
        targets_of(users, num_items),
        EvalConfig(**{"user_batch": 2, "item_block": 4, **changes}),
    ).to_pylist()


@given(st.integers(0, 200), st.integers(1, 5))
def test_every_user_is_in_exactly_one_shard(num_users, user_batch):
    shards = shards_of(num_users, EvalConfig(user_batch=user_batch))
    covered = Counter(user for _, first, last in shards for user in range(first, last))
    assert covered == Counter(range(num_users))
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert all(shard.first % user_batch == 0 for shard in shards)
    assert all(shard.last - shard.first <= 16 * user_batch for shard in shards)
    num_batches = -(-num_users // user_batch)
    assert len(shards) >= min(num_batches, 16)  # enough for several actors


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_popularity_ranks_by_number_of_training_events(num_train):
    counts = np.array(num_train, dtype=np.int64)
    better, ties = Popularity(counts).better_and_ties(one_target_per_item(len(counts)), None)
    for item, own in enumerate(num_train):
        assert better[item] == sum(other > own for other in num_train)
        assert ties[item] == sum(other == own for other in num_train) - 1


@given(
    st.lists(st.integers(0, 4), min_size=3, max_size=9),
    st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=3, max_size=3),
)
def test_popularity_does_not_count_seen_items_except_the_target(num_train, histories):
    counts = np.array(num_train, dtype=np.int64)
    seen = seen_pairs(list(map(np.array, histories)))
    better, ties = Popularity(counts).better_and_ties(one_target_per_item(3), seen)
    for target, history in enumerate(histories):
        others = [n for i, n in enumerate(num_train) if i != target and i not in history]
        assert better[target] == sum(n > num_train[target] for n in others)
        assert ties[target] == sum(n == num_train[target] for n in others)


def test_seen_items_are_not_ranked_if_exclude_seen_is_set():
    rows = rank_rows([0, 1, 5], num_items=7, exclude_seen=True)  # every user has seen item 0
    for row in rows:
        if row["channel"] != "popularity":
            assert row["ties"] == (6 if row["target"] == 0 else 5)
        else:
            assert row["better"] == 6 - row["target"]


def test_a_constant_model_ties_with_every_other_item():
    for row in rank_rows(users=[0, 1, 5], num_items=7):
        if row["channel"] != "popularity":
            assert (row["better"], row["ties"], row["rank"]) == (0, 6, 1 + 6 / 2)


def test_rows_are_ordered_by_user_split_and_channel():
    channels = ("all", "fused", "text", "popularity")
    assert [(r["user"], r["split"], r["channel"]) for r in rank_rows([3, 4], num_items=7)] == [
        (user, split, channel)
        for user in (3, 4)
        for split in ("valid", "test")
        for channel in channels
    ]


def test_batches_are_fixed_ranges_of_users_even_if_some_have_no_targets():
    scorer = Constant(num_items=7)
    targets = targets_of([0, 3, 4, 5, 9], num_items=7)
    settings = EvalConfig(user_batch=2, item_block=4)
    rank_targets(scorer, {}, targets, settings)
    assert scorer.batches == [2, 2, 4, 2]  # users 0-1, 2-3, 4-5, 8-9


def test_without_targets_there_are_no_rows():
    assert rank_rows([], num_items=7) == []
