"""The share of the item tables that ranking needs, where processes own items.

Products with the item embedding have the same bits for any number of processes. So a process holds
whole rows: of N(O) those of its items, of C Ahat those of its centers.

X items, n own ones, K centers, k of them of this process.
"""

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import coo_array

from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from training.data.item_tables import ItemTables
from training.data.sparse import SparseMatrix, product_rows
from training.sharding.own_tables import OwnLoading, entries_of_owners
from training.sharding.owners import Owners


def load_ranking_tables(experiment: Experiment, owners: Owners) -> ItemTables:
    """Read the share of this process. Collective.

    Checks the tables as `load_item_tables` does.
    """
    return _RankingLoading(experiment, owners).item_tables()


class _RankingLoading(OwnLoading):
    def cooccurrence(self) -> SparseMatrix:
        """Return the own rows of N(O) [n, X]."""
        starts = np.zeros(self.shards.num_own + 1, np.int64)
        columns, weights = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        for rows, of_rows, scores in self.normalized():  # whole rows, in order
            first = rows[0] - self.shards.first
            lengths = np.bincount(rows - rows[0])
            starts[1 + first : 1 + first + len(lengths)] = lengths
            columns.append(of_rows.astype(np.int32))
            weights.append(scores.astype(np.float32))
        return SparseMatrix(np.cumsum(starts), np.concatenate(columns), np.concatenate(weights))

    def centers(self, members: SparseMatrix, graph: SparseMatrix) -> SparseMatrix:
        """Return the rows of C Ahat of this process's centers [k, X].

        Ahat has weights 1 and a row of C equal ones. So processes count the entries that meet, and
        the product of count and weight is the sum that one process finds, bit by bit.
        """
        num_centers, size = members.num_rows, self.shards.world_size
        edges = num_centers * np.arange(size + 1) // size
        ones = SparseMatrix(members.starts, members.columns, np.ones_like(members.weights))
        counted = product_rows(ones, graph, self.shards.num_items)
        entries = ((np.full(len(found), row), found, sums) for row, found, sums in counted)

        def owner_of(batch: pa.RecordBatch) -> Ints:
            owners: Ints = np.searchsorted(edges[1:], batch.column(0).to_numpy(), side="right")
            return owners

        rows, columns, counts = entries_of_owners(entries, owner_of, self.planner)
        first, last = edges[self.shards.rank : self.shards.rank + 2].tolist()
        shape = last - first, self.shards.num_items
        total = coo_array((counts, (rows - first, columns)), shape=shape).tocsr()
        total.sort_indices()
        num_members = self.planner.sum("tables", torch.from_numpy(np.diff(members.starts)))
        weight_of = (1 / num_members.clamp(min=1).numpy()[first:last]).astype(np.float32)
        weights = total.data * np.repeat(weight_of.astype(np.float64), np.diff(total.indptr))
        starts, columns = total.indptr.astype(np.int64), total.indices.astype(np.int32)
        return SparseMatrix(starts, columns, weights.astype(np.float32))
