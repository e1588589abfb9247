"""Ranking metrics from (better, ties), with ties in expectation over random orders.

`better` items score above the target and `ties` other items score the same, so the target has each
of the ranks better + 1 ... better + 1 + ties with equal probability. A constant model therefore
scores exactly N / X in recall@N over X items.
"""

import numpy as np

from mdsrec.arrays import Counts, Floats


def recall(better: Counts, ties: Counts, n: int) -> Floats:
    """Return the probability that each target is in the top n -> [targets]."""
    return np.clip((n - better) / (ties + 1), 0.0, 1.0)


def ndcg(better: Counts, ties: Counts, n: int) -> Floats:
    """Return the expected 1 / log2(1 + rank), 0 beyond rank n -> [targets].

    The ideal DCG of one target is 1, so DCG and NDCG are equal.
    """
    return _expected_gain(1 / np.log2(2 + np.arange(n)), better, ties)


def mrr(better: Counts, ties: Counts, n: int) -> Floats:
    """Return the expected 1 / rank, 0 beyond rank n -> [targets]."""
    return _expected_gain(1 / (1 + np.arange(n)), better, ties)


METRICS = {"recall": recall, "ndcg": ndcg, "mrr": mrr}


def _expected_gain(gain_of_rank: Floats, better: Counts, ties: Counts) -> Floats:
    """Return the mean gain over ranks better + 1 ... better + 1 + ties.

    `gain_of_rank` starts at rank 1; the gain is 0 beyond its end.
    """
    n = len(gain_of_rank)
    summed = np.concatenate([[0.0], np.cumsum(gain_of_rank)])
    first, last = np.minimum(better, n), np.minimum(better + ties + 1, n)
    expected: Floats = (summed[last] - summed[first]) / (ties + 1)
    return expected


def per_event(better: Counts, ties: Counts, cutoffs: tuple[int, ...]) -> dict[str, Floats]:
    """Return every metric at every cutoff, with keys such as `recall@10` -> [targets] each."""
    return {
        f"{name}@{n}": metric(better, ties, n) for name, metric in METRICS.items() for n in cutoffs
    }


def summary(better: Counts, ties: Counts, cutoffs: tuple[int, ...]) -> dict[str, float]:
    """Return the mean of every metric at every cutoff, or {} without targets."""
    values_of = per_event(better, ties, cutoffs)
    return {name: float(values.mean()) for name, values in values_of.items() if len(better)}
