"""Ranking metrics as reductions of (better, ties): expectations over a random order of the tied
items.

A target beaten by `better` items and tied with `ties` others stands with equal chance on each of
the ranks better + 1 ... better + 1 + ties. So a constant model scores exactly N / X in recall@N.
"""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def recall(better: Counts, ties: Counts, n: int) -> Floats:
    """Chance that each target is among the first n -> [targets]."""
    return np.clip((n - better) / (ties + 1), 0.0, 1.0)


def ndcg(better: Counts, ties: Counts, n: int) -> Floats:
    """Expected 1 / log2(1 + rank), 0 beyond rank n -> [targets]; the ideal value of one target is
    1.
    """
    return _expected_gain(1 / np.log2(2 + np.arange(n)), better, ties)


def mrr(better: Counts, ties: Counts, n: int) -> Floats:
    """Expected 1 / rank, 0 beyond rank n -> [targets]."""
    return _expected_gain(1 / (1 + np.arange(n)), better, ties)


METRICS = {"recall": recall, "ndcg": ndcg, "mrr": mrr}


def _expected_gain(gain_of_rank: Floats, better: Counts, ties: Counts) -> Floats:
    """Mean of the gain (rank 1 first, 0 beyond its end) over ranks better + 1 ... better + 1 +
    ties.
    """
    n = len(gain_of_rank)
    summed = np.concatenate([[0.0], np.cumsum(gain_of_rank)])
    first, last = np.minimum(better, n), np.minimum(better + ties + 1, n)
    expected: Floats = (summed[last] - summed[first]) / (ties + 1)
    return expected


def by_event(better: Counts, ties: Counts, cutoffs: tuple[int, ...]) -> dict[str, Floats]:
    """Every metric at every cutoff, as `recall@10` -> [targets] each."""
    return {
        f"{name}@{n}": metric(better, ties, n) for name, metric in METRICS.items() for n in cutoffs
    }


def summary(better: Counts, ties: Counts, cutoffs: tuple[int, ...]) -> dict[str, float]:
    """Mean of every metric at every cutoff; empty without targets."""
    found = by_event(better, ties, cutoffs)
    return {name: float(of_events.mean()) for name, of_events in found.items() if len(better)}


def coverage(listed: Counts) -> float:
    """Share of the items that stand in a list; `listed` [items] counts in how many each does."""
    return float((listed > 0).mean())


def popularity_lift(listed: Counts, had: Counts, popularity: Counts) -> float:
    """How much more popular listed items are than those that users had, 0 = alike (Abdollahpouri
    et al., arXiv:1907.13286, over all users).

    All [items]: in how many lists each stands, how many users' events it is, its training events.
    """
    of_listed = (listed @ popularity) / max(listed.sum(), 1)
    of_had = (had @ popularity) / max(had.sum(), 1)
    return float(of_listed / of_had - 1) if of_had else 0.0
