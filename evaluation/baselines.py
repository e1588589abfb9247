"""Baselines that need no training: popularity of items, and ItemKNN on their co-occurrence.

B users, X items.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from evaluation.metrics.events import Events
from mdsrec import metrics, schema, tables
from mdsrec.arrays import Counts, Floats
from mdsrec.config import Experiment
from mdsrec.normalization import normalized_scores
from mdsrec.table_names import cooccurrence_name
from training.data.sequences import SequenceReader, Target

USER_BATCH = 4096


class Popularity:
    """Items ranked by their number of training events; equal numbers are ties."""

    def __init__(self, num_train: Counts) -> None:
        self._num_train = num_train
        self._ascending = np.sort(num_train)

    def better_and_ties(self, targets: Counts, seen: Counts | None) -> tuple[Counts, Counts]:
        """Count the items with more training events than each target, and those with as many.

        Returns ([B], [B]). `seen` [pairs, 2] are distinct (index of a target, item) that are not
        counted.
        """
        own = self._num_train[targets]
        at_most = np.searchsorted(self._ascending, own, side="right")
        below = np.searchsorted(self._ascending, own, side="left")
        better, ties = len(self._ascending) - at_most, at_most - below - 1
        if seen is not None:
            row, item = seen[seen[:, 1] != targets[seen[:, 0]]].T
            better -= np.bincount(row[self._num_train[item] > own[row]], minlength=len(own))
            ties -= np.bincount(row[self._num_train[item] == own[row]], minlength=len(own))
        return better, ties


def itemknn_events(experiment: Experiment, cutoffs: tuple[int, ...]) -> Events:
    """Rank the test events by ItemKNN and return their metrics, in the order of a run's events.

    The score of an item i is the sum over the items j of the history of O_ij / sqrt(o_i o_j). O is
    the co-occurrence in training events (Eq. 2) and o its row sums. This is ItemKNN of Sarwar et
    al. (WWW 2001) with O instead of counts and with all neighbors.
    """
    uri = tables.table_uri(experiment.root, cooccurrence_name(experiment))
    table = tables.read_table(uri, schema.COOCCURRENCE, ["item", "other", "score"])
    rows, columns = table["item"].to_numpy(), table["other"].to_numpy()
    scores = normalized_scores(rows, columns, table["score"].to_numpy(), "symmetric")
    num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
    similarity = csr_array((scores, (rows, columns)), shape=(num_items, num_items))
    reader = SequenceReader(experiment)
    users: list[Counts] = []
    values: list[Floats] = []
    for first in range(0, reader.num_users, USER_BATCH):
        targets = reader.targets(first, min(first + USER_BATCH, reader.num_users), "test")
        of_batch = metrics.per_event(*itemknn_better_and_ties(similarity, targets), cutoffs)
        users.append(np.array([target.user for target in targets], dtype=np.int64))
        values.append(np.stack(list(of_batch.values()), axis=1))
    return Events(np.concatenate(users), list(of_batch), np.concatenate(values))


def itemknn_better_and_ties(
    similarity: csr_array, targets: Sequence[Target]
) -> tuple[Counts, Counts]:
    """Count the items that score above each target, and other items with the same score.

    Returns ([B], [B]). `similarity` [X, X] stores only values above 0. Most items score 0; they
    are counted without being stored.
    """
    num_users, num_items = len(targets), similarity.shape[0]
    lengths = [len(target.history) for target in targets]
    user = np.repeat(np.arange(num_users), lengths)
    items = np.concatenate([target.history for target in targets]) if targets else user
    histories = csr_array((np.ones(len(items)), (user, items)), shape=(num_users, num_items))
    scores = csr_array(histories @ similarity)
    row = np.repeat(np.arange(num_users), np.diff(scores.indptr))
    target_items = np.array([target.target for target in targets], dtype=np.int64)
    own = np.zeros(num_users)
    is_own = scores.indices == target_items[row]
    own[row[is_own]] = scores.data[is_own]
    better = np.bincount(row, scores.data > own[row], minlength=num_users).astype(np.int64)
    level = np.bincount(row, scores.data == own[row], minlength=num_users).astype(np.int64)
    unscored = num_items - np.diff(scores.indptr)
    return better, np.where(own > 0, level, level + unscored) - 1
