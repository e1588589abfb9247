"""The memory of transitions: item scores from counted transitions, without training.

The score of item i for a history h1 (the last event), h2, ... is

    sum over k of recency^(k-1) log(1 + M[hk, i] X / tau)

over the last `max_events` events. M is the table `memory`: decayed counts of what follows an item
in training sequences, spread over the neighbors of the modalities (etl/transitions/spreading.py).

B histories, X items, n of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import csr_array

from mdsrec import schema, tables
from mdsrec.arrays import Floats, Ints
from mdsrec.config import Experiment, TransitionsConfig
from mdsrec.table_names import memory_name
from training.data.sequences import History
from training.data.shared_arrays import Allocate, zeros
from training.data.sparse import SparseMatrix
from training.data.table_arrays import Weights, scored_rows
from training.data.table_checks import check_memory_table
from training.layers.sparse_scores import SparseScores


@dataclass(frozen=True)
class Memory:
    """Terms that an event of one item adds to the scores of others, before they fade with time."""

    terms: SparseMatrix  # [X, X], log(1 + M X / tau)
    config: TransitionsConfig
    fingerprint: str  # of the table and of the keys that only scoring reads

    @classmethod
    def load(
        cls,
        experiment: Experiment,
        allocate: Allocate = zeros,
        read: Callable[..., Iterator[pa.RecordBatch]] = tables.stream_table,
    ) -> Self:
        """Read the table. InputError if it is missing, or was made from other data or settings."""
        manifest, num_items = check_memory_table(experiment)
        config = experiment.transitions
        uri = tables.table_uri(experiment.root, memory_name(experiment))
        rows = read(uri, manifest, schema.MEMORY, ["item", "other", "score"])

        term = partial(terms_of, num_items=num_items, tau=config.tau)
        terms = scored_rows(rows, num_items, manifest.rows, term, allocate)
        return cls(terms, config, memory_fingerprint(manifest, config))

    def recent(self, history: History) -> History:
        """Return the events of a history that count, the last one first."""
        return history[-self.config.max_events :][::-1]

    def fading(self, num_events: int) -> Floats:
        """Return the weight of each of the last events, the last one first."""
        return np.power(self.config.recency, np.arange(num_events), dtype=np.float64)

    def scores(self, histories: Sequence[History]) -> SparseScores:
        """Return the scores of all items that some event of a history remembers, for B histories.

        A history's scores do not depend on the others'.
        """
        recent = [self.recent(history) for history in histories]
        starts = np.concatenate([[0], np.cumsum([len(events) for events in recent])])
        fading = np.concatenate([np.empty(0), *(self.fading(len(events)) for events in recent)])
        events = np.concatenate([np.empty(0, np.int32), *recent])
        # Only the rows of these events: the product would copy all terms to double precision.
        own_items, columns = np.unique(events, return_inverse=True)
        weights_Bn = csr_array((fading, columns, starts), shape=(len(recent), len(own_items)))
        found = csr_array(weights_Bn @ self._rows(own_items))
        found.sort_indices()
        rows = np.repeat(np.arange(len(recent)), np.diff(found.indptr))
        return SparseScores(
            torch.from_numpy(rows),
            torch.from_numpy(found.indices.astype(np.int64)),
            torch.from_numpy(found.data.astype(np.float32)),
            self.terms.num_rows,
        )

    def _rows(self, items: Ints) -> csr_array:
        """Return the terms of n items [n, X]."""
        terms = self.terms
        lengths = terms.starts[items + 1] - terms.starts[items]
        ends = np.cumsum(lengths)
        entry = np.arange(lengths.sum()) + np.repeat(terms.starts[items] + lengths - ends, lengths)
        parts = terms.weights[entry], terms.columns[entry], np.concatenate([[0], ends])
        return csr_array(parts, shape=(len(items), terms.num_rows))


def terms_of(scores: Weights, num_items: int, tau: float) -> Floats:
    """Return log(1 + M X / tau) for scores of the table."""
    terms: Floats = np.log1p(scores.astype(np.float64) * (num_items / tau))
    return terms


def memory_fingerprint(manifest: tables.Manifest, config: TransitionsConfig) -> str:
    """Return a fingerprint of the table and of the keys that only scoring reads."""
    scoring = [config.recency, config.max_events, config.tau]
    return tables.fingerprint([manifest.fingerprint, *scoring])


def seen_items(histories: Sequence[History], num_items: int) -> SparseScores:
    """Return the score 1 for every item of a history."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.concatenate([np.empty(0, np.int64), *histories]).astype(np.int64)
    pairs = np.unique(rows * num_items + items)
    return SparseScores(
        torch.from_numpy(pairs // num_items),
        torch.from_numpy(pairs % num_items),
        torch.ones(len(pairs)),
        num_items,
    )
