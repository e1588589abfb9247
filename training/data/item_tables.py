"""The item tables of a data set, loaded as the constants of the model.

Letters: O co-occurrence of items, Ahat^m neighbors and C^m centers in modality m, X items, H
neighbors per item, k centers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.table_names import centers_name, cooccurrence_name, features_name, neighbors_name
from training.data import table_arrays
from training.data.device_matrices import ItemGraph
from training.data.plans import RowSource
from training.data.shared_arrays import Allocate, Array, Built, Ranks, once_per_host
from training.data.sparse import SparseMatrix, product
from training.data.table_checks import checked_manifest, checked_manifests

PARTS = ("starts", "columns", "weights")  # of a matrix, in the names of arrays
NUM_TRAIN = "num_train"


@dataclass(frozen=True)
class ModalityTables:
    """The constants of one modality; None for what the model does not read."""

    adjacency: SparseMatrix | ItemGraph | None  # Ahat^m
    features: Tensor | None  # [X, d_m], zero rows for items without the modality
    membership: SparseMatrix | None  # C^m
    centers: SparseMatrix | None = None  # C Ahat; None: multiplied by the model itself


class Own(NamedTuple):
    """The items that a rank owns."""

    num_items: int
    add_up: Callable[[Tensor], Tensor]  # a tensor over the ranks, in place; collective
    is_first: bool  # whether this rank owns the first items
    num_train: Ints | None = None  # [n], training events, if the loss leaves items out by them

    def of_first(self, tensor: Tensor) -> Tensor:
        """Return the tensor of the first rank. Collective."""
        return self.add_up(tensor if self.is_first else torch.zeros_like(tensor))


@dataclass(frozen=True)
class ItemTables:
    """The constants that a model is built from."""

    num_items: int
    cooccurrence: SparseMatrix | RowSource | None  # N(O)
    modalities: dict[str, ModalityTables]
    fingerprints: dict[str, str]  # by name of table, sequences included
    num_train: Ints | None = None  # [X], training events, if the loss needs them
    own: Own | None = None  # where the arrays with a row for each item hold those of a rank

    @property
    def num_parameter_rows(self) -> int:
        """Return how many rows this rank holds of the parameters with a row for each item."""
        return self.num_items if self.own is None else self.own.num_items

    @property
    def untrained(self) -> Tensor:
        """Return which of the items that this rank holds have no training event, bool [n]."""
        num_train = self.num_train if self.own is None else self.own.num_train
        assert num_train is not None
        return torch.from_numpy(num_train == 0)

    def over_items(self, sums: Tensor) -> Tensor:
        """Return the sums over all items, of sums over those that this rank holds."""
        return sums if self.own is None else self.own.add_up(sums)

    @property
    def fingerprint(self) -> str:
        """Return one fingerprint of all tables."""
        return tables.fingerprint(self.fingerprints)

    def arrays(self) -> dict[str, Array]:
        """Return everything but the numbers in `about`, by name."""
        found = _named("cooccurrence", self.cooccurrence)
        for name, modality in self.modalities.items():
            found |= _named(f"{name}/adjacency", modality.adjacency)
            found |= _named(f"{name}/membership", modality.membership)
            found |= _named(f"{name}/centers", modality.centers)
            if modality.features is not None:
                found[f"{name}/features"] = modality.features.numpy()
        return found if self.num_train is None else {**found, NUM_TRAIN: self.num_train}

    def about(self) -> dict[str, Any]:
        """Return the number of items, the names of the modalities and the fingerprints."""
        return {
            "num_items": self.num_items,
            "modalities": list(self.modalities),
            "fingerprints": self.fingerprints,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> Self:
        """Return the tables of `arrays` and `about`."""
        modalities = {}
        for name in about["modalities"]:
            features = arrays.get(f"{name}/features")
            modalities[name] = ModalityTables(
                _matrix(f"{name}/adjacency", arrays),
                None if features is None else torch.from_numpy(features),
                _matrix(f"{name}/membership", arrays),
                _matrix(f"{name}/centers", arrays),
            )
        cooccurrence = _matrix("cooccurrence", arrays)
        num_items, fingerprints = about["num_items"], about["fingerprints"]
        return cls(num_items, cooccurrence, modalities, fingerprints, arrays.get(NUM_TRAIN))


def load_item_tables(experiment: Experiment, ranks: Ranks | None = None) -> ItemTables:
    """Check the tables as `check_item_tables` does, then read those that the model needs.

    With `ranks`, those of one host hold the arrays once; then it is collective.
    """

    def build(allocate: Allocate) -> Built:
        item_tables = Loading(experiment, allocate).item_tables()
        return Built(item_tables.arrays(), item_tables.about())

    built = once_per_host(build, ranks)
    return ItemTables.of(built.arrays, built.about)


class Loading:
    """The tables of an experiment while they are read into allocated arrays, whole."""

    def __init__(self, experiment: Experiment, allocate: Allocate) -> None:
        self.experiment, self.allocate = experiment, allocate
        self.manifests = checked_manifests(experiment)
        self.num_items = self.manifests["items"].rows

    def item_tables(self) -> ItemTables:
        """Read every table that the model needs."""
        experiment, needs = self.experiment, self.experiment.model.needs
        num_train = cooccurrence = None
        if experiment.train.reads_num_train:
            num_train = self.num_train()
        if needs.cooccurrence:
            cooccurrence = self.cooccurrence()
        modalities = {name: self.modality(name) for name in experiment.modalities}
        fingerprints = {name: manifest.fingerprint for name, manifest in self.manifests.items()}
        return ItemTables(self.num_items, cooccurrence, modalities, fingerprints, num_train)

    def modality(self, name: str) -> ModalityTables:
        """Read what the model needs of a modality."""
        needs = self.experiment.model.needs
        graph = self.adjacency(name) if needs.neighbors else None
        features = self.features(name) if needs.features else None
        members = self.membership(name) if needs.centers else None
        centers = None
        if graph is not None and members is not None:
            centers = self.center_rows(members, graph)
        return ModalityTables(graph, features, members, centers)

    def center_rows(self, members: SparseMatrix, graph: SparseMatrix) -> SparseMatrix | None:
        """Return C Ahat."""
        return product(members, graph, self.num_items, self.allocate)

    def rows(
        self, uri: str, manifest: tables.Manifest, table: pa.Schema, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of an opened table in order, in batches of bounded memory."""
        return tables.stream_table(uri, manifest, table, columns)

    def open(self, name: str) -> tuple[str, tables.Manifest]:
        """Check a table again: it may have been rebuilt since the first check."""
        self.manifests[name] = checked_manifest(self.experiment, name, self.manifests)
        return tables.table_uri(self.experiment.root, name), self.manifests[name]

    def num_train(self) -> Ints:
        """Read the number of training events of each item [X]."""
        uri, manifest = self.open("items")
        found, done = self.allocate(self.num_items, np.int64), 0
        for batch in self.rows(uri, manifest, schema.ITEMS, ["num_train"]):
            found[done : done + len(batch)] = batch.column(0).to_numpy()
            done += len(batch)
        return found

    def cooccurrence(self) -> SparseMatrix:
        """Read O as N(O)."""
        uri, manifest = self.open(cooccurrence_name(self.experiment))
        columns = ["item", "other", "score"]
        read = partial(self.rows, uri, manifest, schema.COOCCURRENCE, columns)
        how = self.experiment.graph.normalize
        return table_arrays.normalized_rows(read, self.num_items, manifest.rows, how, self.allocate)

    def adjacency(self, modality: str) -> SparseMatrix:
        """Read the neighbors as Ahat^m."""
        uri, manifest = self.open(neighbors_name(self.experiment, modality))
        model = self.experiment.model
        batches = self.rows(uri, manifest, schema.NEIGHBORS, ["item", "neighbors"])
        return table_arrays.neighbor_rows(
            table_arrays.lists_of(batches),
            self.num_items,
            manifest.rows,
            model.neighbors_read,
            model.self_is_neighbor,
            self.allocate,
        )

    def membership(self, modality: str) -> SparseMatrix:
        """Read C^m."""
        uri, manifest = self.open(centers_name(self.experiment, modality))
        read = partial(self.rows, uri, manifest, schema.CENTERS, ["item", "center"])
        num_centers = self.experiment.model.all_num_centers()[0]
        return table_arrays.member_rows(read, manifest.rows, num_centers, self.allocate)

    def features(self, modality: str) -> Tensor:
        """Read the vectors of all items [X, d_m]."""
        uri, manifest = self.open(features_name(modality))
        batches = self.rows(uri, manifest, schema.FEATURES, ["item", "vector"])
        width = int(manifest.counters["width"])
        return torch.from_numpy(table_arrays.vectors(batches, self.num_items, width, self.allocate))


def _named(name: str, matrix: Any) -> dict[str, Array]:
    if matrix is None:
        return {}
    return {f"{name}/{part}": getattr(matrix, part) for part in PARTS}


def _matrix(name: str, arrays: Mapping[str, Array]) -> SparseMatrix | None:
    if f"{name}/starts" not in arrays:
        return None
    return SparseMatrix(*(arrays[f"{name}/{part}"] for part in PARTS))
