"""The summary of a hand-written ranks table, and metrics.json."""

import json

import numpy as np
import pytest
from evaluated_runs import ROWS, TEST_ALL, run_metrics, write_ranks

from evaluation.metrics.bootstrap import UserSums
from evaluation.metrics.run_metrics import RunMetrics, SliceMetrics
from evaluation.metrics.slices import by_history, by_presence, by_training
from evaluation.metrics.summary import CURVE, summarize
from mdsrec import files, metrics
from mdsrec.errors import InputError


def summary_of(tmp_path, *parts):
    slicings = {
        "image": by_presence([np.array([0]), np.array([2])], num_items=3),
        "training events": by_training([np.array([7, 0]), np.array([4])]),
        "history": by_history(np.array([2, 5, 0, 0, 0, 30])),
    }
    return summarize(write_ranks(tmp_path, *parts), ("all", "popularity"), (5, 10), slicings)


def test_metrics_are_means_over_targets_not_over_files(tmp_path):
    found = summary_of(tmp_path, ROWS[:3], ROWS[3:])
    assert found.split["test"]["all"] == pytest.approx(metrics.summary(*TEST_ALL, (5, 10)))
    assert found.split["test"]["all"]["recall@5"] == pytest.approx((1 + 1 + 0) / 3)
    assert found.split["test"]["popularity"]["recall@5"] == pytest.approx((0 + 1 + 1) / 3)


def test_intervals_are_over_users_of_all_files(tmp_path):
    found = summary_of(tmp_path, ROWS[:3], ROWS[3:]).interval["test"]["all"]
    whole = UserSums.from_events(np.array([0, 1, 5]), metrics.recall(*TEST_ALL, 10)[:, None])
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


def test_targets_are_sliced_by_whether_the_item_has_a_modality(tmp_path):
    slices = summary_of(tmp_path, ROWS).slices["test"]["image"]
    assert (slices["with"].targets, slices["without"].targets) == (1, 2)
    assert slices["with"].channels["all"]["recall@5"] == 1  # item 0, ranked first
    assert slices["without"].channels["all"]["recall@5"] == pytest.approx((1 + 0) / 2)  # item 1
    assert slices["without"].channels["popularity"]["recall@5"] == pytest.approx((0 + 1) / 2)


def test_targets_are_sliced_by_training_events_of_the_item(tmp_path):
    slices = summary_of(tmp_path, ROWS).slices["test"]["training events"]
    assert [each.targets for each in slices.values()] == [2, 0, 1, 0]
    never, often = slices["never trained"].channels, slices["5 to 19 times"].channels
    assert never["all"]["recall@5"] == pytest.approx((1 + 0) / 2)  # item 1
    assert often["all"]["recall@5"] == 1  # item 0


def test_targets_are_sliced_by_history_length_of_the_user(tmp_path):
    slices = summary_of(tmp_path, ROWS[:3], ROWS[3:]).slices["test"]["history"]
    assert [each.targets for each in slices.values()] == [1, 1, 0, 1]  # users 0, 1 and 5
    assert slices["20 events or more"].channels["all"]["recall@5"] == 0
    assert slices["20 events or more"].channels["popularity"]["recall@5"] == 1


def test_an_item_is_in_the_slice_with_the_highest_count_it_reaches():
    slicing = by_training([np.array([0, 1, 4, 5, 19, 20, 999])])
    assert [slicing.names[index] for index in slicing.slice_of] == [
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


def test_metrics_json_reads_back_as_written_and_has_a_stable_layout(tmp_path):
    metrics_of_run = run_metrics()
    path = tmp_path / "metrics.json"
    metrics_of_run.write(str(path))
    assert RunMetrics.read(str(path)) == metrics_of_run
    content = json.loads(path.read_text())
    assert " ".join(content) == (
        "name dataset tables weights ranks num_items cutoffs exclude_seen channel_weights "
        "items_with lists users targets split interval ties curve slices digest"
    )
    assert list(content["curve"]) == ["n", "test"]
    assert list(content["slices"]["test"]["text"]["with"]) == ["targets", "channels"]
    assert list(content["lists"]) == ["top", "exclude_seen", "coverage", "popularity_lift"]


def test_metrics_without_recommendation_lists_have_an_empty_section(tmp_path):
    path = tmp_path / "metrics.json"
    run_metrics(lists=None).write(str(path))
    assert json.loads(path.read_text())["lists"] == {}
    assert RunMetrics.read(str(path)).lists is None


@pytest.mark.parametrize("key", ["name", "ranks", "split", "curve", "slices"])
def test_a_missing_key_of_metrics_json_is_an_error(tmp_path, key):
    path = tmp_path / "metrics.json"
    run_metrics().write(str(path))
    content = files.read_json(str(path))
    path.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
    with pytest.raises(InputError, match=rf"metrics.json: damaged \(no '{key}'\): evaluate"):
        RunMetrics.read(str(path))
