"""Baselines that need no training: popularity of items, and ItemKNN on their co-occurrence.

B targets, X items.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self

import numpy as np
from scipy.sparse import csr_array

from evaluation.metrics.run_metrics import ITEMKNN, POPULARITY
from evaluation.stored.cooccurrence import HELD_ENTRIES, StoredSimilarity
from evaluation.stored.table_rows import smallest_ints
from mdsrec import schema, tables
from mdsrec.arrays import Counts, Ints
from mdsrec.config import Experiment
from mdsrec.config.training import BATCHES_PER_SHARD
from mdsrec.table_names import whole_cooccurrence_name
from training.data.sequences import Target

READ_ENTRIES = 16_000_000  # of the similarity, held for some targets
SCORES_PER_PAIR = 100  # that a GPU is assumed to rank while a pair of items is read
SCORED_ENTRIES = 4_000_000  # of the rows of the targets' events, added up together


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
    """Return the baselines of a data set: popularity, and ItemKNN if nothing speaks against it."""
    return (POPULARITY,) if itemknn_obstacle(experiment) else (POPULARITY, ITEMKNN)


def itemknn_obstacle(experiment: Experiment) -> str | None:
    """Return why ItemKNN is not ranked, or None if it is.

    It is, unless its pairs of items are read more slowly than a large shard of users is ranked.
    """
    uri = tables.table_uri(experiment.root, whole_cooccurrence_name(experiment))
    pairs = tables.read_manifest(uri)
    if pairs is None:
        return f"{uri}: no such table"
    num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
    users = BATCHES_PER_SHARD * experiment.eval.users_together
    if is_read_in_time(pairs.rows, num_items, users):
        return None
    return (
        f"{pairs.rows:,} pairs of items would be read for every {users:,} users, more slowly than "
        "these are ranked (a larger eval.user_batch allows more pairs)"
    )


def is_read_in_time(num_pairs: int, num_items: int, num_users: int) -> bool:
    """Return whether reading O costs at most about what ranking all items for some users does.

    Pairs that are held are read once. Others are read for every block of a shard's events.
    """
    num_read = num_pairs * (1 + num_pairs // READ_ENTRIES)
    return num_pairs <= HELD_ENTRIES or num_read * SCORES_PER_PAIR <= num_users * num_items


def read_baselines(experiment: Experiment) -> Mapping[str, Baseline]:
    """Read the baselines of a data set from its tables, by name."""
    kinds: dict[str, type[Popularity | ItemKNN]] = {POPULARITY: Popularity, ITEMKNN: ItemKNN}
    return {name: kinds[name].read(experiment) for name in baseline_names(experiment)}


class Popularity:
    """Items ranked by their number of training events; equal numbers are ties.

    `num_train` [X] is held in a small type. Of its sorted values only the distinct ones are.
    """

    def __init__(self, num_train: Ints) -> None:
        self._num_train = num_train
        self._levels, counts = np.unique(num_train, return_counts=True)
        self._at_most = np.cumsum(counts)  # items with at most so many events, by level
        self._same = counts

    @classmethod
    def read(cls, experiment: Experiment) -> Self:
        uri = tables.table_uri(experiment.root, "items")
        return cls(smallest_ints(uri, schema.ITEMS, "num_train"))

    def better_and_ties(
        self, targets: Sequence[Target], seen: Counts | None
    ) -> tuple[Counts, Counts]:
        items = _items_of(targets)
        own = self._num_train[items]
        level = np.searchsorted(self._levels, own)
        better, ties = len(self._num_train) - self._at_most[level], self._same[level] - 1
        if seen is not None:
            row, item = seen[seen[:, 1] != items[seen[:, 0]]].T
            better -= np.bincount(row[self._num_train[item] > own[row]], minlength=len(own))
            ties -= np.bincount(row[self._num_train[item] == own[row]], minlength=len(own))
        return better, ties


class Similarity(Protocol):
    """A matrix [X, X] of which rows are read when they are needed."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def row_lengths(self, items: Counts) -> Counts: ...
    def __getitem__(self, items: Counts, /) -> csr_array: ...


class ItemKNN:
    """ItemKNN of Sarwar et al. (WWW 2001) with O instead of counts, and with all neighbors.

    The score of an item i is the sum over the items j of the history of O_ij / sqrt(o_i o_j). O is
    the co-occurrence in training events (Eq. 2) and o its row sums. The similarity stores only
    values above 0. Most items score 0; they are counted without being stored.
    """

    def __init__(self, similarity: Similarity) -> None:
        self._similarity = similarity

    @classmethod
    def read(cls, experiment: Experiment) -> Self:
        uri = tables.table_uri(experiment.root, whole_cooccurrence_name(experiment))
        num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
        return cls(StoredSimilarity(uri, num_items))

    def better_and_ties(
        self, targets: Sequence[Target], seen: Counts | None
    ) -> tuple[Counts, Counts]:
        found = [np.zeros((2, 0), dtype=np.int64)]
        for block in self._blocks(targets):
            items = np.unique(np.concatenate([targets[n].history for n in block])).astype(np.int64)
            similar = self._similarity[items]
            lengths = self._similarity.row_lengths(items)
            costs = [lengths[np.searchsorted(items, targets[n].history)].sum() for n in block]
            for part in cut(costs, SCORED_ENTRIES):
                first, last = block[part.start], block[part.stop - 1] + 1
                events = _histories(targets[first:last], items)
                scores = csr_array(events @ similar)
                own_seen = None if seen is None else _rows_between(seen, first, last)
                found.append(self._counts(scores, _items_of(targets[first:last]), own_seen))
        better, ties = np.concatenate(found, axis=1)
        return better, ties

    def _blocks(self, targets: Sequence[Target]) -> Iterator[range]:
        """Cut the targets into blocks whose distinct events have at most READ_ENTRIES entries.

        A target with more is a block by itself.
        """
        first, entries, known = 0, 0, set[int]()
        for number, target in enumerate(targets):
            new = self._num_entries(set(target.history.tolist()) - known)
            if number > first and entries + new > READ_ENTRIES:
                yield range(first, number)
                first, known = number, set()
                entries, new = 0, self._num_entries(set(target.history.tolist()))
            entries += new
            known.update(target.history.tolist())
        if targets:
            yield range(first, len(targets))

    def _num_entries(self, items: set[int]) -> int:
        return int(self._similarity.row_lengths(np.array([*items], dtype=np.int64)).sum())

    def _counts(self, scores: csr_array, targets: Counts, seen: Counts | None) -> Counts:
        """Count the items above each target and those level with it, of all scored items [2, B]."""
        num_targets, num_items = scores.shape
        row, items = np.repeat(np.arange(num_targets), np.diff(scores.indptr)), scores.indices
        own = np.zeros(num_targets)
        is_own = items == targets[row]
        own[row[is_own]] = scores.data[is_own]
        counted = np.ones(len(row), dtype=bool)
        left_out = np.zeros(num_targets, dtype=np.int64)
        if seen is not None:
            others = seen[seen[:, 1] != targets[seen[:, 0]]]
            counted = ~np.isin(row * num_items + items, others @ [num_items, 1])
            left_out = np.bincount(others[:, 0], minlength=num_targets)
        row, values = row[counted], scores.data[counted]
        better = np.bincount(row, values > own[row], minlength=num_targets).astype(np.int64)
        level = np.bincount(row, values == own[row], minlength=num_targets).astype(np.int64)
        unscored = num_items - left_out - np.bincount(row, minlength=num_targets)
        ties = np.where(own > 0, level, level + unscored) - 1
        counts: Counts = np.stack([better, ties])
        return counts


def cut(costs: Sequence[int], most: int) -> Iterator[range]:
    """Cut a sequence into ranges that cost at most `most`, or have one place."""
    first, total = 0, 0
    for place, cost in enumerate(costs):
        if place > first and total + cost > most:
            yield range(first, place)
            first, total = place, 0
        total += int(cost)
    if len(costs):
        yield range(first, len(costs))


def _rows_between(seen: Counts, first: int, last: int) -> Counts:
    """Return the pairs of the targets first <= index < last, counted from the first."""
    chosen = seen[(seen[:, 0] >= first) & (seen[:, 0] < last)]
    pairs: Counts = chosen - np.array([first, 0])
    return pairs


def _items_of(targets: Sequence[Target]) -> Counts:
    return np.array([target.target for target in targets], dtype=np.int64)


def _histories(targets: Sequence[Target], items: Counts) -> csr_array:
    """Return how often each of `items`, which ascend, is in the history of each target."""
    row = np.repeat(np.arange(len(targets)), [len(target.history) for target in targets])
    events = np.concatenate([target.history for target in targets])
    places = np.searchsorted(items, events)
    return csr_array((np.ones(len(places)), (row, places)), shape=(len(targets), len(items)))
