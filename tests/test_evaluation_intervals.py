"""Intervals of metrics: they cover what they should, and a user's events belong together."""

import numpy as np
import pytest

from evaluation.metrics.bootstrap import RESAMPLES, Users, difference


def test_means_are_over_events_and_a_users_events_are_one_figure() -> None:
    users = Users.of(np.array([7, 3, 7, 9]), np.array([[1.0], [0.0], [0.5], [0.0]]))
    assert users.rows.tolist() == [[1, 0], [2, 1.5]] and users.counts.tolist() == [2, 1]
    assert users.means() == pytest.approx([1.5 / 4])


def test_parts_beside_each_other_are_the_whole() -> None:
    generator = np.random.default_rng(1)
    values = generator.integers(0, 4, (90, 2)) / 4
    whole = Users.of(np.arange(90), values)
    parts = [Users.of(np.arange(n, 90, 3), values[n::3]) for n in range(3)]
    together = parts[0].beside(parts[1]).beside(parts[2])
    np.testing.assert_array_equal(together.rows, whole.rows)
    np.testing.assert_array_equal(together.counts, whole.counts)
    np.testing.assert_array_equal(together.intervals(), whole.intervals())


def test_an_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    generator, truth, trials = np.random.default_rng(0), 0.3, 300
    held = 0
    for _ in range(trials):
        hits = (generator.random(400) < truth).astype(float)
        ((low, high),) = Users.of(np.arange(400), hits[:, None]).intervals()
        held += low <= truth <= high
    assert held / trials == pytest.approx(0.95, abs=0.04)


def test_events_of_one_user_are_no_independent_evidence() -> None:
    hits = np.random.default_rng(0).integers(0, 2, 100).astype(float)
    alone = Users.of(np.arange(100), hits[:, None])
    repeated = Users.of(np.repeat(np.arange(100), 9), np.repeat(hits, 9)[:, None])
    np.testing.assert_allclose(repeated.intervals(), alone.intervals())


def test_a_difference_is_of_pairs() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(500)  # what both runs find hard; far larger than their difference
    better = difference(np.arange(500), hard[:, None] + 0.01, hard[:, None])
    assert better.means == pytest.approx([0.01])
    assert better.intervals[0] == pytest.approx([0.01, 0.01])
    assert better.p == pytest.approx([1 / RESAMPLES])


def test_runs_that_differ_by_chance_seldom_differ_with_significance() -> None:
    generator, found = np.random.default_rng(0), []
    for _ in range(200):
        one, other = generator.integers(0, 2, (2, 300, 1)).astype(float)
        found.append(difference(np.arange(300), one, other).p[0])
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.04)
