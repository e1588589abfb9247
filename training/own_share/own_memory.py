"""The memory of transitions of which this process holds the terms of its own items."""

import numpy as np
import pyarrow as pa

from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.table_names import memory_name
from training.data.sparse import SparseMatrix
from training.data.table_checks import check_memory_table
from training.memory import Memory, memory_fingerprint, terms_of
from training.sharding.entry_rows import Parts
from training.sharding.own_tables import entries_of_owners
from training.sharding.owners import Owners


def load_own_memory(experiment: Experiment, owners: Owners) -> Memory:
    """Read the terms that events add to the scores of own items. Collective.

    A process reads the rows of its own items, and sends each entry to the owner of the item whose
    score it adds to.
    """
    shards, planner = owners.shards, owners.planner
    manifest, num_items = check_memory_table(experiment)
    config, uri = experiment.transitions, tables.table_uri(experiment.root, memory_name(experiment))
    between = shards.first, shards.last
    batches = tables.stream_table(uri, manifest, schema.MEMORY, schema.MEMORY.names, between)

    def owner_of(batch: pa.RecordBatch) -> Ints:
        return shards.owners(batch.column(1).to_numpy())

    entries = (_entries(batch) for batch in batches)
    items, others, scores = entries_of_owners(entries, owner_of, planner)
    order = np.argsort(items, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(items, minlength=num_items))])
    weights = terms_of(scores[order].astype(np.float32), num_items, config.tau)
    terms = SparseMatrix(starts, others[order].astype(np.int32), weights.astype(np.float32))
    return Memory(terms, config, memory_fingerprint(manifest, config))


def _entries(batch: pa.RecordBatch) -> Parts:
    items, others, scores = (column.to_numpy() for column in batch.columns)
    return items, others, scores
