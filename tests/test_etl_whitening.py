"""Whitening of vectors before their cosines, on vectors whose answer is known."""

import numpy as np

from etl.graph.unit_vectors import unit_rows
from etl.graph.whitening import LEAST_SHARE, Whitening


def test_the_common_part_of_all_vectors_no_longer_decides_who_is_near():
    # A long common direction hides that 0 and 1 say the same, and 2 and 3 the opposite.
    own = np.array([[1.0, 0.2], [1.0, -0.2], [-1.0, 0.2], [-1.0, -0.2]])
    vectors = np.hstack([own, np.full((4, 1), 50.0)]).astype(np.float32)
    cosines = unit_rows(vectors.astype(np.float64)) @ unit_rows(vectors.astype(np.float64)).T
    assert cosines.min() > 0.99
    white = unit_rows(Whitening.fit(vectors)(vectors.astype(np.float64)))
    # The second direction has 4% of the variance of the first. It is scaled as if it had 5%:
    # 0.2 / sqrt(.05) = .894, and the first one has length 1.
    np.testing.assert_allclose(white[0] @ white[1], (1 - 0.8) / (1 + 0.8), atol=1e-6)
    np.testing.assert_allclose(white[0] @ white[2], (-1 + 0.8) / (1 + 0.8), atol=1e-6)


def test_whitened_vectors_have_mean_zero_and_covariance_one():
    generator = np.random.default_rng(0)
    mixed = generator.normal(size=(500, 4)) @ generator.normal(size=(4, 4)) + 7
    vectors = mixed.astype(np.float32)
    variances = np.linalg.eigvalsh(np.cov(vectors.T, bias=True))
    white = Whitening.fit(vectors)(vectors.astype(np.float64))
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-9)
    found = np.linalg.eigvalsh(np.cov(white.T, bias=True))
    few = np.minimum(1, variances / (LEAST_SHARE * variances.max()))
    np.testing.assert_allclose(np.sort(found), np.sort(few), rtol=1e-6)


def test_few_vectors_in_many_dimensions_stay_finite():
    vectors = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    white = unit_rows(Whitening.fit(vectors)(vectors.astype(np.float64)))
    np.testing.assert_allclose((white * white).sum(axis=1), 1)
    # Three vectors around their mean are equally far from each other.
    np.testing.assert_allclose((white @ white.T)[np.triu_indices(3, 1)], -0.5, atol=1e-6)
