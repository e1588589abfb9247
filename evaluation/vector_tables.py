"""Reader of the tables `vectors` of a run: the scores that a service would compute from them.

The score of an item is the inner product of the user's and the item's vector, plus what the memory
adds: the sum over the user's events, each times its weight, of the memory's term of the item. Items
that the user had before get a weight of their own.

X items, D width of all channels together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.run_paths import RunPaths

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VectorTables:
    """Vectors of users and items, and the terms of the memory where the run has one."""

    user_ids: Sequence[str]
    user_vectors: Vectors  # [users, D]
    item_vectors: Vectors  # [X, D]
    event_weights: csr_array  # [users, X], of the events that the memory scores by
    terms: csr_array  # [X, X], what an event of an item adds to the score of another
    seen: csr_array  # [users, X], what is added to the score of an item that the user had before

    @classmethod
    def read(cls, run_uri: str) -> Self:
        """Read what `python -m evaluation recommend` wrote. InputError if a table is missing."""
        paths = RunPaths(run_uri)
        users = tables.read_table(paths.user_vectors, schema.USER_VECTORS)
        items = tables.read_table(paths.item_vectors, schema.ITEM_VECTORS, ["vector"])
        num_items = items.num_rows
        terms = csr_array((num_items, num_items), dtype=np.float32)
        if tables.read_manifest(paths.memory_terms):
            rows = tables.read_table(paths.memory_terms, schema.MEMORY)
            item, other, score = (rows[name].to_numpy() for name in schema.MEMORY.names)
            terms = csr_array((score, (item, other)), shape=terms.shape)
        seen_weights = np.repeat(users["seen_weight"].to_numpy(), _lengths(users["seen"]))
        return cls(
            users["user_id"].to_pylist(),
            _matrix(users["vector"]),
            _matrix(items["vector"]),
            _sparse(users["events"], _flat(users["event_weights"]), num_items),
            terms,
            _sparse(users["seen"], seen_weights, num_items),
        )

    def scores(self, users: slice) -> Vectors:
        """Return the scores of all items for some rows of the users' table [n, X]."""
        network = self.user_vectors[users] @ self.item_vectors.T
        sparse = self.event_weights[users] @ self.terms + self.seen[users]
        scores: Vectors = network + sparse.toarray()
        return scores

    def top(self, users: slice, count: int) -> Ints:
        """Return the items with the highest scores [n, count], ties by item."""
        best: Ints = np.argsort(-self.scores(users), axis=1, kind="stable")[:, :count]
        return best


def _matrix(vectors: pa.ChunkedArray) -> Vectors:
    """Return vectors of one width as the rows of a matrix."""
    return _flat(vectors).reshape(len(vectors), len(_flat(vectors)) // max(1, len(vectors)))


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
