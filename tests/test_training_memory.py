"""The memory of transitions: its scores, worked out by hand and compared with plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_tables import sparse_matrix

from mdsrec.config import TransitionsConfig
from training.layers.queries import Queries
from training.layers.scoring import Tiles, count_channels, top_k_items
from training.layers.sparse_scores import SparseScores
from training.memory import Memory, seen_items


def memory_of(terms, **keys):
    dense = np.array(terms, np.float32)
    rows, columns = np.nonzero(dense)
    matrix = sparse_matrix(rows, columns, dense[rows, columns], len(dense))
    return Memory(matrix, TransitionsConfig(**keys), "")


def dense(scores, num_rows):
    found = torch.zeros(num_rows, scores.num_items)
    found[scores.rows, scores.items] = scores.scores
    return found


def test_each_event_counts_less_than_the_one_after_it():
    memory = memory_of([[0, 1, 4], [2, 0, 0], [0, 8, 0]], recency=0.5)
    scores = memory.scores([np.array([2, 0, 1], np.int32)])
    # item 0: from event 1, the last; item 1: from 0 and 2; item 2: from 0
    assert dense(scores, 1).tolist() == [[2.0, 0.5 * 1 + 0.25 * 8, 0.5 * 4]]


def test_an_item_that_was_there_twice_counts_twice():
    scores = memory_of([[0, 1], [0, 0]], recency=0.5).scores([np.array([0, 0, 1], np.int32)])
    assert dense(scores, 1).tolist() == [[0, 0.5 + 0.25]]


def test_only_the_last_events_count():
    memory = memory_of([[0, 1, 0], [0, 0, 1], [0, 0, 0]], recency=1.0, max_events=2)
    scores = memory.scores([np.array([1, 0, 2], np.int32), np.array([2], np.int32)])
    assert dense(scores, 2).tolist() == [[0, 1, 0], [0, 0, 0]]


histories = st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=1, max_size=5)
matrices = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=6, max_size=6)


@given(histories, matrices)
def test_scores_equal_plain_sums(users, terms):
    arrays = [np.array(user, np.int32) for user in users]
    found = dense(memory_of(terms, recency=0.5, max_events=4).scores(arrays), len(users))
    for user, row in zip(users, found.tolist(), strict=True):
        recent = user[::-1][:4]
        for item in range(6):
            assert row[item] == math.fsum(0.5**k * terms[j][item] for k, j in enumerate(recent))


@given(histories, matrices)
def test_the_scores_of_a_history_do_not_depend_on_the_others(users, terms):
    arrays = [np.array(user, np.int32) for user in users]
    memory = memory_of(terms, recency=0.6)
    together = dense(memory.scores(arrays), len(users))
    for row, array in zip(together, arrays, strict=True):
        assert torch.equal(row, dense(memory.scores([array]), 1)[0])


@given(histories, matrices, st.integers(1, 9))
def test_scores_at_items_and_in_blocks_are_the_dense_ones(users, terms, width):
    arrays = [np.array(user, np.int32) for user in users]
    scores = memory_of(terms, recency=0.5).scores(arrays)
    expected = dense(scores, len(users))
    items = torch.arange(6).expand(len(users), -1)
    assert torch.equal(scores.at(items), expected)
    first_items = list(range(0, 6, width))
    for first, block in zip(first_items, scores.blocks(first_items, width), strict=True):
        out = torch.full((len(users), width), 7.0)
        block.write_to(out)
        assert torch.equal(out[:, : 6 - first], expected[:, first : first + width])


@st.composite
def queries_with_memory(draw):
    """Draw Queries of K dense channels of integers and a sparse one, and the same scores dense."""
    B, K, X = draw(st.integers(1, 5)), draw(st.integers(0, 2)), draw(st.integers(1, 140))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))

    def numbers(*shape):
        return torch.randint(-3, 4, shape, generator=generator).float()

    sparse_BX = numbers(B, X) * (torch.rand(B, X, generator=generator) < 0.3)
    rows, items = sparse_BX.nonzero().T
    sparse = SparseScores(rows, items, sparse_BX[rows, items], X)
    queries = Queries(numbers(B, K, 3), numbers(K, X, 3), (sparse, sparse))
    scores = torch.einsum("bkd,kxd->bkx", queries.vectors, queries.items)
    return queries, torch.cat([scores, sparse_BX[:, None], sparse_BX[:, None]], dim=1)


@given(queries_with_memory(), st.integers(1, 150), st.data())
def test_counts_with_a_memory_equal_a_comparison_of_all_scores(drawn, block, data):
    queries, channels_BCX = drawn
    B, C, X = channels_BCX.shape
    sums = torch.tensor([[1.0] * C, [2.0] * (C - 1) + [0.0]])
    targets = torch.tensor(data.draw(st.lists(st.integers(0, X - 1), min_size=B, max_size=B)))
    scores = torch.cat([torch.einsum("sc,bcx->bsx", sums, channels_BCX), channels_BCX], dim=1)
    own = scores[torch.arange(B), :, targets][..., None]
    better, ties = count_channels(queries, sums, targets, block)
    assert torch.equal(better, (scores > own).sum(2))
    assert torch.equal(ties, (scores == own).sum(2) - 1)
    # So one pass over the tiles is enough.
    assert torch.equal(Tiles(queries, sums, block).expected_scores(targets), own[..., 0].T)


@given(queries_with_memory(), st.integers(1, 150), st.integers(1, 5))
def test_top_items_with_a_memory_are_those_of_a_plain_sort(drawn, block, count):
    queries, channels_BCX = drawn
    count = min(count, channels_BCX.shape[2])
    none_seen = torch.empty(0, 2, dtype=torch.int64)
    whole = channels_BCX.sum(1)
    weights = torch.ones(channels_BCX.shape[1])
    scores, items = top_k_items(queries, weights, count, block, none_seen)
    expected = torch.sort(whole, dim=1, descending=True, stable=True)
    assert torch.equal(scores, expected.values[:, :count])
    assert torch.equal(items, expected.indices[:, :count])
    assert torch.equal(
        queries.scores_of(items),
        channels_BCX.gather(2, items[:, None].expand(-1, len(weights), -1)).mT,
    )


def test_a_single_channel_is_scored_alone():
    sparse = SparseScores(torch.tensor([0]), torch.tensor([1]), torch.tensor([5.0]), 2)
    queries = Queries(torch.ones(1, 2, 1), torch.tensor([[[1.0], [2]], [[3], [4]]]), (sparse,))
    items = torch.tensor([[0, 1]])
    assert [queries.only(c).scores_of(items).flatten().tolist() for c in range(3)] == [
        [1, 2],
        [3, 4],
        [0, 5],
    ]


def test_seen_items_score_once():
    scores = seen_items([np.array([2, 0, 2], np.int32), np.empty(0, np.int32)], 4)
    assert scores.rows.tolist() == [0, 0] and scores.items.tolist() == [0, 2]
    assert dense(scores, 2).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]


def test_without_events_nothing_is_scored():
    assert len(memory_of([[1.0]]).scores([np.empty(0, np.int32)]).items) == 0


@pytest.mark.parametrize("num_events", [0, 3])
def test_the_weights_of_events_are_powers(num_events):
    assert memory_of([[1.0]], recency=0.5).fading(num_events).tolist() == [
        0.5**k for k in range(num_events)
    ]
