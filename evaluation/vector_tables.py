"""Reader of the tables `vectors` of a run: the scores that a service would compute from them.

The score of an item is the inner product of the user's and the item's vector, plus what the memory
adds: the sum over the user's events, each times its weight, of the memory's term of the item. Items
that the user had before get a weight of their own.

The tables stay in their files: items are scored a batch at a time.

B users, X items, n items of a batch, D width of all channels together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csc_array, csr_array

from evaluation.stored.table_rows import TableRows
from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.run_paths import RunPaths

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VectorTables:
    """Vectors of users and items, and the terms of the memory where the run has one."""

    users: TableRows
    items_uri: str
    num_items: int
    terms: TableRows | None  # what an event of an item adds to the score of another

    @classmethod
    def read(cls, run_uri: str) -> Self:
        """Open what `python -m evaluation recommend` wrote. InputError if a table is missing."""
        paths = RunPaths(run_uri)
        terms = None
        if tables.read_manifest(paths.memory_terms):
            terms = TableRows(paths.memory_terms, schema.MEMORY, schema.MEMORY.names)
        return cls(
            TableRows(paths.user_vectors, schema.USER_VECTORS, schema.USER_VECTORS.names),
            paths.item_vectors,
            tables.open_table(paths.item_vectors).rows,
            terms,
        )

    def scores(self, users: slice) -> Vectors:
        """Return the scores of all items for some rows of the users' table [B, X]."""
        return np.concatenate([scores for _, scores in self._score_batches(users)], axis=1)

    def top(self, users: slice, count: int) -> Ints:
        """Return the items with the highest scores [B, count], ties by item."""
        best, best_scores = np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)
        for first, scores in self._score_batches(users):
            items = np.broadcast_to(np.arange(first, first + scores.shape[1]), scores.shape)
            if first:
                scores = np.concatenate([best_scores, scores], axis=1)
                items = np.concatenate([best, items], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            best_scores, best = (np.take_along_axis(part, order, 1) for part in (scores, items))
        return best

    def _score_batches(self, users: slice) -> Iterator[tuple[int, Vectors]]:
        """Yield the scores [B, n] of each batch of items, and its first item."""
        first, last, _ = users.indices(self.users.num_rows)
        rows = self.users.between(first, last)
        vectors, added, done = _matrix(rows["vector"]), self._added(rows), 0
        manifest = tables.open_table(self.items_uri)
        for batch in tables.stream_table(self.items_uri, manifest, schema.ITEM_VECTORS, ["vector"]):
            end = done + batch.num_rows
            items = _matrix(pa.chunked_array([batch["vector"]]))
            yield done, vectors @ items.T + added[:, done:end].toarray()
            done = end

    def _added(self, users: pa.Table) -> csc_array:
        """Return what the memory and the items that users had before add to scores [B, X]."""
        seen_weights = np.repeat(users["seen_weight"].to_numpy(), _lengths(users["seen"]))
        added = _sparse(users["seen"], seen_weights, self.num_items)
        if self.terms is not None:
            weights = _sparse(users["events"], _flat(users["event_weights"]), self.num_items)
            rows = self.terms.where("item", np.unique(weights.indices))
            item, other, score = (rows[name].to_numpy() for name in schema.MEMORY.names)
            shape = self.num_items, self.num_items
            added = added + weights @ csr_array((score, (item, other)), shape=shape)
        return csc_array(added)


def _matrix(vectors: pa.ChunkedArray) -> Vectors:
    """Return vectors of one width as the rows of a matrix."""
    flat = _flat(vectors)
    return flat.reshape(len(vectors), len(flat) // max(1, len(vectors)))


def _sparse(columns: pa.ChunkedArray, values: Vectors, num_items: int) -> csr_array:
    """Return a sparse matrix from the columns of each row, and all values."""
    starts = np.concatenate([[0], np.cumsum(_lengths(columns))])
    return csr_array((values, _flat(columns), starts), shape=(len(columns), num_items))


def _flat(lists: pa.ChunkedArray) -> npt.NDArray[Any]:
    flat: npt.NDArray[Any] = pc.list_flatten(lists).to_numpy()
    return flat


def _lengths(lists: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    lengths: npt.NDArray[np.int32] = pc.list_value_length(lists).to_numpy()
    return lengths
