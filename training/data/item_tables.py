"""The item tables of a data set, checked, and loaded as the constants of the model.

Letters: O co-occurrence of items, Ahat^m neighbors and C^m centers in modality m, X items, H
neighbors per item, k centers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.config import Experiment, GraphConfig
from mdsrec.errors import InputError
from mdsrec.normalization import normalized_scores
from mdsrec.table_names import (
    centers_name,
    cooccurrence_name,
    features_name,
    memory_name,
    neighbors_name,
    transitions_name,
)
from mdsrec.table_settings import table_settings
from training.data.sparse import SparseMatrix, sparse_matrix


@dataclass(frozen=True)
class ModalityTables:
    """The constants of one modality; None for what the model does not read."""

    adjacency: SparseMatrix | None  # Ahat^m
    features: Tensor | None  # [X, d_m], zero rows for items without the modality
    membership: SparseMatrix | None  # C^m


@dataclass(frozen=True)
class ItemTables:
    """The constants that a model is built from."""

    num_items: int
    cooccurrence: SparseMatrix | None  # N(O)
    modalities: dict[str, ModalityTables]
    fingerprints: dict[str, str]  # by name of table, sequences included
    num_train: Ints | None = None  # [X], training events, if negatives are drawn by them

    @property
    def fingerprint(self) -> str:
        """Return one fingerprint of all tables."""
        return tables.fingerprint(self.fingerprints)


def adjacency(
    items: Ints,
    lengths: Ints,
    neighbors: Ints,
    num_items: int,
    num_neighbors: int,
    include_self: bool,
) -> SparseMatrix:
    """Return Ahat^m (Eq. 5): the first H neighbors of each item, and itself if `include_self`.

    `neighbors` holds the stored lists of `items` one after the other, and `lengths` their lengths.
    A row that would be empty (an item without the modality, or H = 0) holds the item itself, so
    that it keeps its own row of E^id.
    """
    position = np.arange(len(neighbors)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first = position < num_neighbors
    rows, columns = np.repeat(items, lengths)[first], neighbors[first]
    own = np.bincount(rows, minlength=num_items) == 0
    if include_self:
        own[items] = True
    rows = np.concatenate([rows, np.flatnonzero(own)])
    columns = np.concatenate([columns, np.flatnonzero(own)])
    order = np.argsort(rows, kind="stable")
    return sparse_matrix(rows[order], columns[order], np.ones(len(rows)), num_items)


def membership(items: Ints, centers: Ints, num_centers: int) -> SparseMatrix:
    """Return C^m (Eq. 10-11), whose rows average over a center's members; zero without members."""
    order = np.argsort(centers, kind="stable")
    counts = np.bincount(centers, minlength=num_centers)
    weights = 1.0 / counts[centers[order]]
    return sparse_matrix(centers[order], items[order], weights, num_centers)


def check_item_tables(experiment: Experiment) -> dict[str, str]:
    """Check every table that the model reads and return their fingerprints by name.

    Only manifests are read. Raises InputError if a table is missing or too small, was made with
    other settings, or was made before one of its inputs was rebuilt.
    """
    manifests = _checked_manifests(experiment)
    return {name: manifest.fingerprint for name, manifest in manifests.items()}


def check_memory_table(experiment: Experiment) -> tuple[tables.Manifest, int]:
    """Return the manifest of the memory of transitions, and the number of items.

    Raises InputError as `check_item_tables` does.
    """
    names = ["sequences", "items", transitions_name(experiment)]
    for modality in experiment.memory_modalities:
        mu = experiment.transitions.mu
        names += [features_name(modality), neighbors_name(experiment, modality, mu)]
    manifests: dict[str, tables.Manifest] = {}
    for name in (*names, memory_name(experiment)):
        manifests[name] = _checked_manifest(experiment, name, manifests)
    return manifests[memory_name(experiment)], manifests["items"].rows


def load_item_tables(experiment: Experiment) -> ItemTables:
    """Check the tables as `check_item_tables` does, then read those that the model needs."""
    model, needs = experiment.model, experiment.model.needs
    manifests = _checked_manifests(experiment)
    num_items = manifests["items"].rows

    def read(name: str, table_schema: pa.Schema, *columns: str) -> pa.Table:
        # Check again: the table may have been rebuilt since the first check.
        manifests[name] = _checked_manifest(experiment, name, manifests)
        return tables.read_table(tables.table_uri(experiment.root, name), table_schema, [*columns])

    num_train = cooccurrence = None
    if experiment.train.draws_by_events:
        num_train = _ints(read("items", schema.ITEMS, "num_train"), "num_train")
    if needs.cooccurrence:
        scores = read(cooccurrence_name(experiment), schema.COOCCURRENCE, "item", "other", "score")
        cooccurrence = _cooccurrence(scores, num_items, experiment.graph)
    modalities = {}
    for modality in experiment.modalities:
        graph = features = members = None
        if needs.neighbors:
            name = neighbors_name(experiment, modality)
            lists = read(name, schema.NEIGHBORS, "item", "neighbors")
            graph = adjacency(
                _ints(lists, "item"),
                *_flattened(lists, "neighbors"),
                num_items,
                model.neighbors_read,
                model.self_is_neighbor,
            )
        if needs.features:
            vectors = read(features_name(modality), schema.FEATURES, "item", "vector")
            features = _vectors(vectors, num_items)
        if needs.centers:
            table = read(centers_name(experiment, modality), schema.CENTERS, "item", "center")
            pairs = _ints(table, "item"), _ints(table, "center")
            members = membership(*pairs, model.all_num_centers()[0])
        modalities[modality] = ModalityTables(graph, features, members)
    fingerprints = {name: manifest.fingerprint for name, manifest in manifests.items()}
    return ItemTables(num_items, cooccurrence, modalities, fingerprints, num_train)


def _checked_manifests(experiment: Experiment) -> dict[str, tables.Manifest]:
    """Return the manifests of the tables that the model reads, inputs before what uses them."""
    model, needs = experiment.model, experiment.model.needs
    manifests: dict[str, tables.Manifest] = {}

    def check(name: str) -> int:
        manifests[name] = _checked_manifest(experiment, name, manifests)
        return manifests[name].rows

    check("sequences")
    experiment.train.check_fits(check("items"))
    if needs.cooccurrence:
        check(cooccurrence_name(experiment))
    if not model.is_trained:
        manifests[memory_name(experiment)], _ = check_memory_table(experiment)
    for modality in experiment.modalities:
        model.check_fits(modality, check(features_name(modality)))
        if needs.neighbors:
            check(neighbors_name(experiment, modality))
        if needs.centers:
            check(centers_name(experiment, modality))
    return manifests


def _checked_manifest(
    experiment: Experiment, name: str, inputs: Mapping[str, tables.Manifest]
) -> tables.Manifest:
    """Open a table; raise InputError if it was made with other settings or from other inputs."""
    uri, settings = tables.table_uri(experiment.root, name), table_settings(experiment)[name]
    manifest = tables.open_table(uri)
    for key in sorted(settings.keys() | manifest.settings.keys()):
        wanted, actual = settings.get(key), manifest.settings.get(key)
        if wanted != actual:
            raise InputError(
                f"{uri}: made with {key} = {actual}, the configuration says {wanted}: "
                f"{tables.ETL_FIRST}"
            )
    for input_name, fingerprint in manifest.inputs.items():
        if input_name in inputs and inputs[input_name].fingerprint != fingerprint:
            raise InputError(f"{uri}: made before {input_name} was rebuilt: {tables.ETL_FIRST}")
    return manifest


def _cooccurrence(table: pa.Table, num_items: int, config: GraphConfig) -> SparseMatrix:
    rows, columns = _ints(table, "item"), _ints(table, "other")
    scores = table.column("score").to_numpy()
    weights = normalized_scores(rows, columns, scores, config.normalize)
    return sparse_matrix(rows, columns, weights, num_items)


def _ints(table: pa.Table, column: str) -> Ints:
    integers: Ints = table.column(column).to_numpy().astype(np.int64)
    return integers


def _flattened(table: pa.Table, column: str) -> tuple[Ints, Ints]:
    """Return the lengths of a column's lists, and the lists one after the other."""
    lists = table.column(column).combine_chunks()
    return (
        lists.value_lengths().to_numpy().astype(np.int64),
        lists.flatten().to_numpy().astype(np.int64),
    )


def _vectors(table: pa.Table, num_items: int) -> Tensor:
    flat = table.column("vector").combine_chunks().flatten().to_numpy()
    vectors = torch.zeros(num_items, len(flat) // table.num_rows)
    vectors[_ints(table, "item")] = torch.from_numpy(flat.reshape(table.num_rows, -1).copy())
    return vectors
