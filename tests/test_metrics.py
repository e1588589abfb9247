"""Ranking metrics against values worked by hand, and against scikit-learn."""

from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    label_ranking_average_precision_score,
    ndcg_score,
    top_k_accuracy_score,
)

from evaluation.metrics.coverage import ItemLists, coverage, popularity_lift
from mdsrec import metrics


def one(metric, better, ties, n):
    return metric(np.array([better]), np.array([ties]), n).item()


def test_ndcg_of_rank_two_is_one_over_log2_three():
    assert one(metrics.ndcg, 1, 0, 10) == pytest.approx(1 / log2(3))


def test_mrr_of_rank_four_is_a_quarter():
    assert one(metrics.mrr, 3, 0, 10) == pytest.approx(1 / 4)


@pytest.mark.parametrize("metric", [metrics.recall, metrics.ndcg, metrics.mrr])
def test_rank_one_scores_one_and_a_rank_beyond_the_cutoff_zero(metric):
    assert one(metric, 0, 0, 10) == 1
    assert one(metric, 9, 0, 10) > 0
    assert one(metric, 10, 0, 10) == 0


def test_a_tie_across_the_cutoff_counts_with_its_probability():
    # ranks 9, 10, 11 with equal probability: two of three are within 10
    assert one(metrics.recall, 8, 2, 10) == pytest.approx(2 / 3)
    assert one(metrics.ndcg, 8, 2, 10) == pytest.approx((1 / log2(10) + 1 / log2(11)) / 3)


@pytest.mark.parametrize("num_items", [1, 7, 23])
def test_a_constant_model_scores_exactly_n_over_x(num_items):
    for n in (1, 5, 10, 20):
        assert one(metrics.recall, 0, num_items - 1, n) == min(n, num_items) / num_items


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(1, 8), st.data())
def test_ties_count_as_the_mean_over_all_orders_of_the_tied(scores, n, data):
    """Sort the items by score in each order of the tied ones, and average over the orders."""
    target = data.draw(st.integers(0, len(scores) - 1))
    better = sum(score > scores[target] for score in scores)
    ties = sum(score == scores[target] for score in scores) - 1
    ranks = []
    for order in permutations(range(len(scores))):
        ranking = sorted(order, key=lambda item: -scores[item])
        ranks.append(1 + ranking.index(target))
    inside = [rank for rank in ranks if rank <= n]
    assert one(metrics.recall, better, ties, n) == pytest.approx(len(inside) / len(ranks))
    gain = sum(1 / log2(1 + rank) for rank in inside) / len(ranks)
    assert one(metrics.ndcg, better, ties, n) == pytest.approx(gain)
    reciprocal = sum(1 / rank for rank in inside) / len(ranks)
    assert one(metrics.mrr, better, ties, n) == pytest.approx(reciprocal)


def test_the_summary_has_every_metric_at_every_cutoff():
    means = metrics.summary(np.array([0, 1]), np.array([0, 0]), (1, 10))
    assert means["recall@1"] == 1 / 2
    assert means["ndcg@10"] == pytest.approx((1 + 1 / log2(3)) / 2)
    assert set(means) == {f"{m}@{n}" for m in ("recall", "ndcg", "mrr") for n in (1, 10)}


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.integers(1, 12), st.data())
def test_ndcg_equals_that_of_scikit_learn_with_ties(scores, n, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    better = sum(score > scores[target] for score in scores)
    ties = sum(score == scores[target] for score in scores) - 1
    relevant = [[float(item == target) for item in range(len(scores))]]
    assert one(metrics.ndcg, better, ties, n) == pytest.approx(ndcg_score(relevant, [scores], k=n))


@given(st.permutations(range(9)), st.integers(0, 8))
def test_mrr_and_recall_without_ties_equal_those_of_scikit_learn(scores, target):
    better, relevant = 8 - scores[target], [[item == target for item in range(9)]]
    expected = label_ranking_average_precision_score(relevant, [scores])
    assert one(metrics.mrr, better, 0, 9) == pytest.approx(expected)
    for n in range(1, 9):
        labels = list(range(9))
        expected = top_k_accuracy_score([target], [scores], k=n, labels=labels)
        assert one(metrics.recall, better, 0, n) == expected


def test_coverage_and_popularity_lift_of_lists_of_the_same_three_items():
    num_train = np.array([9, 6, 3, 1])
    listed = ItemLists.of([np.array([0, 1, 2]), np.array([2, 1, 0])], num_train)
    consumed = ItemLists.of([np.array([3, 0]), np.array([1, 3])], num_train)
    assert (listed, consumed) == ((6, 36, 3), (4, 17, 3))
    assert coverage(listed, 4) == 3 / 4
    assert popularity_lift(listed, consumed) == pytest.approx(6 / (17 / 4) - 1)
    assert popularity_lift(consumed, consumed) == 0
    untrained = ItemLists.of([np.array([0, 1, 2])], 0 * num_train)
    assert popularity_lift(untrained, untrained) == 0


def test_training_events_of_listed_items_are_summed_beyond_32_bits():
    listed = ItemLists.of([np.array([0, 0, 0])], np.array([2**31 + 1], dtype=np.uint32))
    assert listed == (3, 3 * (2**31 + 1), 1)


def test_without_targets_there_are_no_means():
    nothing = np.array([], dtype=np.int64)
    assert metrics.summary(nothing, nothing, (10,)) == {}
