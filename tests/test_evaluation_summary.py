"""Reductions of a ranks table written by hand."""

import numpy as np
import pytest
from evaluated_runs import ROWS, TEST_ALL, write_ranks

from evaluation.metrics.bootstrap import Users
from evaluation.metrics.run_metrics import SliceMetrics
from evaluation.metrics.slices import by_history, by_presence, by_training
from evaluation.metrics.summary import CURVE, summarise
from mdsrec import metrics


def summary_of(tmp_path, *parts):
    slices = {
        "image": by_presence(np.array([0, 2], dtype=np.int32), num_items=3),
        "training events": by_training(np.array([7, 0, 4])),
        "history": by_history(np.array([2, 5, 0, 0, 0, 30])),
    }
    return summarise(write_ranks(tmp_path, *parts), ("all", "popularity"), (5, 10), slices)


def test_metrics_are_means_over_targets_not_over_files(tmp_path):
    found = summary_of(tmp_path, ROWS[:3], ROWS[3:])
    assert found.split["test"]["all"] == pytest.approx(metrics.summary(*TEST_ALL, (5, 10)))
    assert found.split["test"]["all"]["recall@5"] == pytest.approx((1 + 1 + 0) / 3)
    assert found.split["test"]["popularity"]["recall@5"] == pytest.approx((0 + 1 + 1) / 3)


def test_intervals_are_of_users_wherever_their_rows_stand(tmp_path):
    found = summary_of(tmp_path, ROWS[:3], ROWS[3:]).interval["test"]["all"]
    whole = Users.of(np.array([0, 1, 5]), metrics.recall(*TEST_ALL, 10)[:, None])
    assert found["recall@10"] == pytest.approx(whole.intervals()[0].tolist())
    assert 0 <= found["recall@10"][0] < 2 / 3 < found["recall@10"][1] <= 1


def test_users_targets_and_ties_are_counted_once(tmp_path):
    found = summary_of(tmp_path, ROWS[:3], ROWS[3:])
    assert found.users == 3
    assert found.targets == {"valid": 1, "test": 3}
    assert found.ties["test"] == {"all": 1, "popularity": 1}


def test_the_curve_is_recall_at_each_n(tmp_path):
    curve = summary_of(tmp_path, ROWS).curve
    assert curve.n == list(CURVE)
    expected = [metrics.recall(*TEST_ALL, n).mean() for n in CURVE]
    assert curve.recall["test"]["all"] == pytest.approx(expected)


def test_slices_follow_what_the_target_has(tmp_path):
    sides = summary_of(tmp_path, ROWS).slices["test"]["image"]
    assert (sides["with"].targets, sides["without"].targets) == (1, 2)
    assert sides["with"].channels["all"]["recall@5"] == 1  # item 0, first
    assert sides["without"].channels["all"]["recall@5"] == pytest.approx((1 + 0) / 2)  # item 1
    assert sides["without"].channels["popularity"]["recall@5"] == pytest.approx((0 + 1) / 2)


def test_slices_follow_how_often_the_target_was_trained(tmp_path):
    kinds = summary_of(tmp_path, ROWS).slices["test"]["training events"]
    assert [kind.targets for kind in kinds.values()] == [2, 0, 1, 0]
    never, often = kinds["never trained"].channels, kinds["5 to 19 times"].channels
    assert never["all"]["recall@5"] == pytest.approx((1 + 0) / 2)  # item 1
    assert often["all"]["recall@5"] == 1  # item 0


def test_slices_follow_how_much_the_user_had(tmp_path):
    kinds = summary_of(tmp_path, ROWS[:3], ROWS[3:]).slices["test"]["history"]
    assert [kind.targets for kind in kinds.values()] == [1, 1, 0, 1]  # users 0, 1 and 5
    assert kinds["20 events or more"].channels["all"]["recall@5"] == 0
    assert kinds["20 events or more"].channels["popularity"]["recall@5"] == 1


def test_items_are_of_the_kind_whose_least_count_they_reach():
    kinds = by_training(np.array([0, 1, 4, 5, 19, 20, 999]))
    assert [kinds.names[kind] for kind in kinds.kind_of] == [
        "never trained",
        *["1 to 4 times"] * 2,
        *["5 to 19 times"] * 2,
        *["20 times or more"] * 2,
    ]


def test_a_split_without_targets_has_no_means(tmp_path):
    found = summary_of(tmp_path, ROWS[:1])
    assert found.split["test"] == {"all": {}, "popularity": {}} == found.interval["test"]
    assert found.curve.recall["test"]["all"] == [0.0] * len(CURVE)
    assert found.slices["test"]["image"]["with"] == SliceMetrics(0, {"all": {}, "popularity": {}})
