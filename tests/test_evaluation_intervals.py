"""Bootstrap intervals: coverage of the true mean, and resampling by user instead of by event."""

import numpy as np
import pytest

from evaluation.metrics.bootstrap import P_RESOLUTION, Difference, UserSums, difference, p_text


def test_means_are_over_events_and_each_user_has_one_row() -> None:
    users = UserSums.from_events(np.array([7, 3, 7, 9]), np.array([[1.0], [0.0], [0.5], [0.0]]))
    assert users.rows.tolist() == [[1, 0], [2, 1.5]] and users.counts.tolist() == [2, 1]
    assert users.means() == pytest.approx([1.5 / 4])


def test_merged_parts_equal_the_whole() -> None:
    generator = np.random.default_rng(1)
    values = generator.integers(0, 4, (90, 2)) / 4
    whole = UserSums.from_events(np.arange(90), values)
    parts = [UserSums.from_events(np.arange(n, 90, 3), values[n::3]) for n in range(3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    np.testing.assert_array_equal(merged.rows, whole.rows)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_array_equal(merged.intervals(), whole.intervals())


def test_95_percent_of_intervals_contain_the_true_mean() -> None:
    generator, truth, trials = np.random.default_rng(0), 0.3, 300
    num_containing = 0
    for _ in range(trials):
        hits = (generator.random(400) < truth).astype(float)
        ((low, high),) = UserSums.from_events(np.arange(400), hits[:, None]).intervals()
        num_containing += low <= truth <= high
    assert num_containing / trials == pytest.approx(0.95, abs=0.04)


def test_repeated_events_of_a_user_do_not_narrow_the_interval() -> None:
    hits = np.random.default_rng(0).integers(0, 2, 100).astype(float)
    single = UserSums.from_events(np.arange(100), hits[:, None])
    repeated = UserSums.from_events(np.repeat(np.arange(100), 9), np.repeat(hits, 9)[:, None])
    np.testing.assert_allclose(repeated.intervals(), single.intervals())


def test_a_difference_is_paired_by_event() -> None:
    generator = np.random.default_rng(0)
    # The effect of the event on both runs is far larger than the difference between the runs.
    of_event = generator.random(500)
    better = difference(np.arange(500), of_event[:, None] + 0.01, of_event[:, None])
    assert better.means == pytest.approx([0.01])
    assert better.intervals[0] == pytest.approx([0.01, 0.01])
    assert better.p < P_RESOLUTION and better.text(0).endswith(" p < .001")


def test_5_percent_of_random_differences_are_significant() -> None:
    generator, p_values = np.random.default_rng(0), []
    for _ in range(200):
        one, other = generator.integers(0, 2, (2, 300, 1)).astype(float)
        p_values.append(difference(np.arange(300), one, other).p[0])
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.04)


def test_p_is_below_a_thousandth_where_no_resample_contradicts_the_difference():
    assert [p_text(p) for p in (P_RESOLUTION / 2, P_RESOLUTION, 0.0495, 0.176, 1.0)] == [
        "< .001",
        ".001",
        ".050",
        ".176",
        "1.000",
    ]


def test_a_difference_is_said_in_words_and_an_unclear_one_is_not_called_better():
    found = Difference(
        np.array([0.0123, -0.0031, 0.0004]),
        np.array([[0.01, 0.0146], [-0.0044, -0.0018], [-0.0013, 0.002]]),
        np.array([0.0005, 0.002, 0.729]),
    )
    assert [found.words(metric, "demo") for metric in range(3)] == [
        "better than demo by .0123 (95% interval .0100 to .0146, p < .001)",
        "worse than demo by .0031 (95% interval .0018 to .0044, p .002)",
        "not clearly different from demo: +.0004 (-.0013 to +.0020, p .729)",
    ]
