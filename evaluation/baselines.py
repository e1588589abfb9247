"""Baselines that need no training: popularity of items, and ItemKNN on their co-occurrence.

B targets, X items.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import numpy as np
from scipy.sparse import csr_array

from evaluation.metrics.run_metrics import ITEMKNN, POPULARITY
from mdsrec import schema, tables
from mdsrec.arrays import Counts
from mdsrec.config import Experiment
from mdsrec.normalization import normalized_scores
from mdsrec.table_names import cooccurrence_name
from training.data.sequences import Target

MAX_PAIRS = 20_000_000  # of items in ItemKNN: about 1 GB in each process that ranks


class Baseline(Protocol):
    """A ranking of all items for each target."""

    def better_and_ties(
        self, targets: Sequence[Target], seen: Counts | None
    ) -> tuple[Counts, Counts]:
        """Count the items that score above each target, and other items with its score.

        Returns ([B], [B]). `seen` [pairs, 2] are distinct (index of a target, item) that are not
        counted.
        """


def baseline_names(experiment: Experiment) -> tuple[str, ...]:
    """Return the baselines of a data set: ItemKNN only up to MAX_PAIRS pairs of items."""
    uri = tables.table_uri(experiment.root, cooccurrence_name(experiment))
    manifest = tables.read_manifest(uri)
    has_pairs = manifest is not None and manifest.rows <= MAX_PAIRS
    return (POPULARITY, ITEMKNN) if has_pairs else (POPULARITY,)


def read_baselines(experiment: Experiment) -> Mapping[str, Baseline]:
    """Read the baselines of a data set from its tables, by name."""
    kinds: dict[str, type[Popularity | ItemKNN]] = {POPULARITY: Popularity, ITEMKNN: ItemKNN}
    return {name: kinds[name].read(experiment) for name in baseline_names(experiment)}


class Popularity:
    """Items ranked by their number of training events; equal numbers are ties."""

    def __init__(self, num_train: Counts) -> None:
        self._num_train = num_train
        self._ascending = np.sort(num_train)

    @classmethod
    def read(cls, experiment: Experiment) -> Self:
        uri = tables.table_uri(experiment.root, "items")
        return cls(tables.read_table(uri, schema.ITEMS, ["num_train"])["num_train"].to_numpy())

    def better_and_ties(
        self, targets: Sequence[Target], seen: Counts | None
    ) -> tuple[Counts, Counts]:
        items = _items_of(targets)
        own = self._num_train[items]
        at_most = np.searchsorted(self._ascending, own, side="right")
        below = np.searchsorted(self._ascending, own, side="left")
        better, ties = len(self._ascending) - at_most, at_most - below - 1
        if seen is not None:
            row, item = seen[seen[:, 1] != items[seen[:, 0]]].T
            better -= np.bincount(row[self._num_train[item] > own[row]], minlength=len(own))
            ties -= np.bincount(row[self._num_train[item] == own[row]], minlength=len(own))
        return better, ties


class ItemKNN:
    """ItemKNN of Sarwar et al. (WWW 2001) with O instead of counts, and with all neighbors.

    The score of an item i is the sum over the items j of the history of O_ij / sqrt(o_i o_j). O is
    the co-occurrence in training events (Eq. 2) and o its row sums. `similarity` [X, X] stores only
    values above 0. Most items score 0; they are counted without being stored.
    """

    def __init__(self, similarity: csr_array) -> None:
        self._similarity = similarity

    @classmethod
    def read(cls, experiment: Experiment) -> Self:
        uri = tables.table_uri(experiment.root, cooccurrence_name(experiment))
        table = tables.read_table(uri, schema.COOCCURRENCE, ["item", "other", "score"])
        rows, columns = table["item"].to_numpy(), table["other"].to_numpy()
        scores = normalized_scores(rows, columns, table["score"].to_numpy(), "symmetric")
        num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
        return cls(csr_array((scores, (rows, columns)), shape=(num_items, num_items)))

    def better_and_ties(
        self, targets: Sequence[Target], seen: Counts | None
    ) -> tuple[Counts, Counts]:
        num_targets, num_items = len(targets), self._similarity.shape[0]
        scores = csr_array(_histories(targets, num_items) @ self._similarity)
        row, items = np.repeat(np.arange(num_targets), np.diff(scores.indptr)), scores.indices
        target_items = _items_of(targets)
        own = np.zeros(num_targets)
        is_own = items == target_items[row]
        own[row[is_own]] = scores.data[is_own]
        counted = np.ones(len(row), dtype=bool)
        left_out = np.zeros(num_targets, dtype=np.int64)
        if seen is not None:
            others = seen[seen[:, 1] != target_items[seen[:, 0]]]
            counted = ~np.isin(row * num_items + items, others @ [num_items, 1])
            left_out = np.bincount(others[:, 0], minlength=num_targets)
        row, values = row[counted], scores.data[counted]
        better = np.bincount(row, values > own[row], minlength=num_targets).astype(np.int64)
        level = np.bincount(row, values == own[row], minlength=num_targets).astype(np.int64)
        unscored = num_items - left_out - np.bincount(row, minlength=num_targets)
        return better, np.where(own > 0, level, level + unscored) - 1


def _items_of(targets: Sequence[Target]) -> Counts:
    return np.array([target.target for target in targets], dtype=np.int64)


def _histories(targets: Sequence[Target], num_items: int) -> csr_array:
    """Return how often each item is in the history of each target [B, X]."""
    row = np.repeat(np.arange(len(targets)), [len(target.history) for target in targets])
    items = np.concatenate([np.empty(0, dtype=np.int64), *(target.history for target in targets)])
    return csr_array((np.ones(len(items)), (row, items)), shape=(len(targets), num_items))
