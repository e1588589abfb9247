"""The item tables of a data set, of which this rank keeps the share of its own items.

The ranks read each table once, together: a rank the rows of its own range of items. Entries of O
then go to the owners of their columns, as do those of C Ahat.

X items, n own ones, H neighbors per item, K centers.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import coo_array

from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.table_names import (
    centers_name,
    cooccurrence_name,
    features_name,
    neighbors_name,
)
from training.data.item_tables import ItemTables, Loading, ModalityTables, Own
from training.data.plans import RowSource
from training.data.shared_arrays import zeros
from training.data.sparse import SparseMatrix, product_rows
from training.data.table_arrays import (
    lists_of,
    member_rows,
    neighbor_rows,
    normalized_entries,
    row_sums,
    vectors,
)
from training.sharding.entry_rows import Parts, rows_of_entries
from training.sharding.exchange import plan_rows
from training.sharding.own_rows import OwnRows
from training.sharding.owners import Owners
from training.sharding.peers import Peers
from training.sharding.sums import OwnColumns
from training.sharding.table_exchange import OwnerOf, to_owners

ENTRIES = pa.schema({"row": pa.int32(), "column": pa.int32(), "weight": pa.float64()})
NAMES = ENTRIES.names


def load_own_tables(experiment: Experiment, owners: Owners) -> ItemTables:
    """Read the share of this rank of the tables that the model needs. Collective.

    Checks them as `load_item_tables` does.
    """
    return OwnLoading(experiment, owners).item_tables()


class OwnLoading:
    """The tables of an experiment while this rank reads its share."""

    def __init__(self, experiment: Experiment, owners: Owners) -> None:
        self.experiment, self.owners = experiment, owners
        self.shards, self.planner = owners.shards, owners.planner
        self.whole = Loading(experiment, zeros)

    def item_tables(self) -> ItemTables:
        """Read every table that the model needs, and plan the halo."""
        experiment, needs = self.experiment, self.experiment.model.needs
        num_train = self.whole.num_train() if experiment.train.reads_num_train else None
        cooccurrence = self.cooccurrence() if needs.cooccurrence else None
        modalities = {name: self._modality(name) for name in experiment.modalities}
        graphs = [m.adjacency for m in modalities.values() if isinstance(m.adjacency, OwnRows)]
        if graphs:
            halo = np.unique(np.concatenate([graph.remote_columns() for graph in graphs]))
            ids = torch.from_numpy(halo.astype(np.int64))
            self.owners.halo = plan_rows(ids, self.shards, self.planner)
            for graph in graphs:
                graph.halo = halo
        fingerprints = {name: m.fingerprint for name, m in self.whole.manifests.items()}
        add_up = partial(self.planner.sum, "tables")
        of_own = None if num_train is None else num_train[self.owners.items]
        own = Own(self.shards.num_own, add_up, self.shards.rank == 0, of_own)
        drawn_by = None if num_train is None else self._drawn_by(num_train)
        return ItemTables(
            self.shards.num_items, cooccurrence, modalities, fingerprints, drawn_by, own
        )

    def _drawn_by(self, num_train: Ints) -> Ints:
        """Return the training events of each item, or place if negatives are places [X]."""
        place_of = self.owners.order.place_of
        if place_of is None or self.experiment.train.negatives != "in_batch":
            return num_train
        by_place = np.empty_like(num_train)
        by_place[place_of] = num_train
        return by_place

    def _modality(self, name: str) -> ModalityTables:
        needs = self.experiment.model.needs
        graph = self._adjacency(name) if needs.neighbors else None
        features = self._features(name) if needs.features else None
        members = self._membership(name) if needs.centers else None
        centers = None
        if graph is not None and members is not None:
            centers = self.centers(members, graph.own)
        return ModalityTables(graph, features, members, centers)

    def _read_range(
        self, name: str, table: pa.Schema, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of this rank's part of the items, in the order of items."""
        uri, manifest = self.whole.open(name)
        between = self.shards.first, self.shards.last
        return tables.stream_table(uri, manifest, table, columns, between)

    def _read(
        self, name: str, table: pa.Schema, columns: list[str], of_items: tuple[str, ...] = ("item",)
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the own items, in any order; `of_items` become places. Collective."""
        batches, order = self._read_range(name, table, columns), self.owners.order
        if order.place_of is None:
            return batches
        by_place = (order.with_places(batch, of_items) for batch in batches)
        return to_owners(by_place, self.owner_of("item"), self.planner)

    def _read_sorted(
        self, name: str, table: pa.Schema, columns: list[str], of_items: tuple[str, ...] = ("item",)
    ) -> Iterator[pa.RecordBatch]:
        """Yield what `_read` does, in the order of places. Collective."""
        batches = self._read(name, table, columns, of_items)
        if self.owners.order.place_of is None:
            return batches
        wanted = pa.schema([table.field(column) for column in columns])
        return iter(pa.Table.from_batches(batches, wanted).sort_by("item").to_batches())

    def owner_of(self, column: str) -> Callable[[pa.RecordBatch], Ints]:
        return lambda batch: self.shards.owners(batch.column(column).to_numpy())

    def _adjacency(self, modality: str) -> OwnRows:
        model, first = self.experiment.model, self.shards.first
        name = neighbors_name(self.experiment, modality)
        columns = ["item", "neighbors"]
        batches = self._read_sorted(name, schema.NEIGHBORS, columns, ("item", "neighbors"))
        lists = (part._replace(items=part.items - first) for part in lists_of(batches))
        num_own = self.shards.num_own
        how = model.neighbors_read, model.self_is_neighbor
        own = neighbor_rows(lists, num_own, num_own, *how, zeros, first)
        return OwnRows(own, self.shards, self.planner)

    def normalized(self) -> Iterator[Parts]:
        """Yield the entries of this rank's part of the rows of N(O), in their order. Collective."""
        name, how = cooccurrence_name(self.experiment), self.experiment.graph.normalize
        read = partial(self._read_range, name, schema.COOCCURRENCE, ["item", "other", "score"])
        degree = None
        if how == "symmetric":
            sums = torch.from_numpy(row_sums(read(), self.shards.num_items))
            degree = self.planner.sum("tables", sums).numpy()
        return normalized_entries(read(), how, degree)

    def cooccurrence(self) -> SparseMatrix | RowSource:
        """Return the own columns of N(O); the rank that owns a row normalizes it."""
        places = self.owners.order.places
        by_place = ((places(items), places(others), w) for items, others, w in self.normalized())
        found = entries_to_owners(by_place, self.owner_of("column"), self.planner)
        own = ((rows, columns - self.shards.first, weights) for rows, columns, weights in found)
        return OwnColumns(*rows_of_entries(own), self.planner)

    def _features(self, modality: str) -> torch.Tensor:
        """Read the vectors of the own items [n, d_m]."""
        name, first = features_name(modality), self.shards.first
        width = int(self.whole.open(name)[1].counters["width"])
        batches = self._read(name, schema.FEATURES, ["item", "vector"])
        return torch.from_numpy(vectors(batches, self.shards.num_own, width, zeros, first))

    def _membership(self, modality: str) -> SparseMatrix:
        """Read the own columns of C^m, whose rows average over the members of all ranks."""
        name = centers_name(self.experiment, modality)
        num_centers = self.experiment.model.all_num_centers()[0]
        read = partial(self._read_sorted, name, schema.CENTERS, ["item", "center"])
        sizes = sum(
            (np.bincount(batch.column(1).to_numpy(), minlength=num_centers) for batch in read()),
            np.zeros(num_centers, np.int64),
        )
        own = member_rows(read, int(sizes.sum()), num_centers, zeros)
        of_all = self.planner.sum("tables", torch.from_numpy(sizes.copy())).numpy()
        weights = np.repeat(1 / np.maximum(of_all, 1), np.diff(own.starts)).astype(np.float32)
        return SparseMatrix(own.starts, own.columns - np.int32(self.shards.first), weights)

    def centers(self, members: SparseMatrix, graph: SparseMatrix) -> SparseMatrix:
        """Return the own columns of C Ahat; each rank multiplies the rows of its own items."""
        found = product_rows(members, graph, self.shards.num_items)
        rows, columns, weights = self._own_entries(
            (np.full(len(columns), center), columns, sums) for center, columns, sums in found
        )
        shape = members.num_rows, self.shards.num_own
        total = coo_array((weights, (rows, columns)), shape=shape).tocsr()
        total.sort_indices()
        starts, columns = total.indptr.astype(np.int64), total.indices.astype(np.int32)
        return SparseMatrix(starts, columns, total.data.astype(np.float32))

    def _own_entries(self, entries: Iterator[Parts]) -> Parts:
        """Send entries (row, column, weight) to the owners of their columns.

        Returns those of own columns, which count from the first own item.
        """
        owner_of = self.owner_of("column")
        rows, columns, weights = entries_of_owners(entries, owner_of, self.planner)
        return rows, columns - self.shards.first, weights


def entries_of_owners(entries: Iterator[Parts], owner_of: OwnerOf, planner: Peers) -> Parts:
    """Send entries (row, column, weight), in batches, to the ranks that `owner_of` names.

    Returns those for this rank. Collective.
    """
    parts = entries_to_owners(entries, owner_of, planner)
    none = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0)
    rows, columns, weights = map(np.concatenate, zip(none, *parts, strict=True))
    return rows, columns, weights


def entries_to_owners(
    entries: Iterator[Parts], owner_of: OwnerOf, planner: Peers
) -> Iterator[Parts]:
    """Send entries as `entries_of_owners` does, and yield those for this rank. Collective."""
    batches = (pa.record_batch([pa.array(part) for part in parts], NAMES) for parts in entries)
    for batch in to_owners((batch.cast(ENTRIES) for batch in batches), owner_of, planner):
        rows, columns, weights = (column.to_numpy() for column in batch.columns)
        yield rows, columns, weights
