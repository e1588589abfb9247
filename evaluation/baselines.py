"""ItemKNN: items that were met beside those of a history, the floor of what co-occurrence tells.

B users, X items.

A target's score is the sum over the history's items j of O_ij / sqrt(o_i o_j), o the sums of O (Eq.
2, Sarwar et al., WWW 2001 with O in the place of counts): training events alone, no neighbour left
out, nothing learned. Most items score 0, so they are counted, not scored.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from evaluation.metrics.events import Events
from mdsrec import metrics, schema, tables
from mdsrec.config import Experiment
from mdsrec.normalization import normalized
from mdsrec.table_names import cooccurrence_name
from training.data.sequences import SequenceReader, Target

Counts = NDArray[np.int64]

USERS = 4096  # read at a time


def itemknn_events(experiment: Experiment, cutoffs: tuple[int, ...]) -> Events:
    """Each test event's metrics, in the order of a run's."""
    uri = tables.table_uri(experiment.root, cooccurrence_name(experiment))
    table = tables.read_table(uri, schema.COOCCURRENCE, ["item", "other", "score"])
    rows, columns = table["item"].to_numpy(), table["other"].to_numpy()
    scores = normalized(rows, columns, table["score"].to_numpy(), "symmetric")
    num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
    similar = csr_array((scores, (rows, columns)), shape=(num_items, num_items))
    reader = SequenceReader(experiment)
    users: list[Counts] = []
    values: list[NDArray[np.float64]] = []
    for first in range(0, reader.num_users, USERS):
        targets = reader.targets(first, min(first + USERS, reader.num_users), "test")
        found = metrics.by_event(*counts(similar, targets), cutoffs)
        users.append(np.array([target.user for target in targets], dtype=np.int64))
        values.append(np.stack(list(found.values()), axis=1))
    return Events(np.concatenate(users), list(found), np.concatenate(values))


def counts(similar: csr_array, targets: Sequence[Target]) -> tuple[Counts, Counts]:
    """How many items score above each target, and how many others as high -> [B] each.

    `similar` [X, X] holds what is above 0.
    """
    num_users, num_items = len(targets), similar.shape[0]
    lengths = [len(target.history) for target in targets]
    user = np.repeat(np.arange(num_users), lengths)
    items = np.concatenate([target.history for target in targets]) if targets else user
    histories = csr_array((np.ones(len(items)), (user, items)), shape=(num_users, num_items))
    scores = csr_array(histories @ similar)
    row = np.repeat(np.arange(num_users), np.diff(scores.indptr))
    wanted = np.array([target.target for target in targets], dtype=np.int64)
    own = np.zeros(num_users)
    is_own = scores.indices == wanted[row]
    own[row[is_own]] = scores.data[is_own]
    better = np.bincount(row, scores.data > own[row], minlength=num_users).astype(np.int64)
    level = np.bincount(row, scores.data == own[row], minlength=num_users).astype(np.int64)
    unscored = num_items - np.diff(scores.indptr)
    return better, np.where(own > 0, level, level + unscored) - 1
