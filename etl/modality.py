"""Builders of one modality's tables: features, neighbours, centres."""

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from etl import centers, features, neighbors, vectors
from etl.workspace import Workspace
from mdsrec import files, schema, tables
from mdsrec.errors import InputError
from mdsrec.names import (
    centers_name,
    centroids_name,
    cooccurrence_name,
    features_name,
    neighbors_name,
)
from mdsrec.tables import Manifest


class Modality:
    """Builds the tables of one modality of an experiment."""

    def __init__(self, space: Workspace, name: str) -> None:
        self.space = space
        self.name = name
        self.config = space.experiment.features[name]
        self.loaded = lru_cache(maxsize=1)(self._load)
        self.clustered = lru_cache(maxsize=1)(self._clustered)

    def features(self) -> Manifest:
        num_items = self.space.manifest("items").rows
        items = self.space.read("items", schema.ITEMS)
        if self.config.encoder is not None:
            tasks = self.space.num_tasks
            rows = features.encoded(items, self.config, num_items, tasks).localCheckpoint()
            counters = {"unknown_asins": 0, "zero_vectors": 0}
        else:
            given = vectors.brought(self.space.spark, self.config, items.select("asin", "item"))
            rows, counters = vectors.known(given), vectors.counters(given)
        found = rows.count()
        first = rows.first()
        if first is None:
            raise InputError(
                f"features.{self.name}: no item has it, of {num_items}: leave the section out"
            )
        counters = {
            "width": len(first.vector),
            "items": found,
            "items_without": num_items - found,
            **counters,
        }
        cut = self.space.by_range("item", num_items, found)
        name = features_name(self.name)
        return self.space.write(name, rows, schema.FEATURES, ["item"], cut, counters)

    def check(self) -> None:
        """InputError where the model asks for more than the modality's items can give."""
        found = self.space.manifest(features_name(self.name)).rows
        self.space.experiment.model.check_fits(self.name, found)

    def neighbors(self) -> Manifest:
        experiment, (item_ids, matrix) = self.space.experiment, self.loaded()
        name = neighbors_name(experiment, self.name)
        graph = self.space.load(cooccurrence_name(experiment), schema.COOCCURRENCE)
        Ebar = neighbors.smoothed(
            item_ids, matrix, graph, experiment.mu(self.name), experiment.graph.normalize
        )
        scratch = tables.new_version(self.space.uri(name))
        matrix_uri = f"{scratch}/unit.npy"
        neighbors.save_matrix(matrix_uri, neighbors.unit_rows(Ebar))
        rows = neighbors.neighbors(
            self.space.spark,
            matrix_uri,
            item_ids,
            experiment.graph.max_neighbors,
            self.space.num_tasks,
        )
        num_items = self.space.manifest("items").rows
        cut = self.space.by_range("item", num_items, len(item_ids))
        counters = {
            "items": len(item_ids),
            "neighbors": min(experiment.graph.max_neighbors, len(item_ids) - 1),
            "recall": 1.0,  # exact by construction: neighbors.nearest settles every place
        }
        manifest = self.space.write(name, rows, schema.NEIGHBORS, ["item"], cut, counters)
        files.delete_folder(scratch)
        return manifest

    def centers(self) -> Manifest:
        return self._cluster(centers_name(self.space.experiment, self.name), schema.CENTERS)

    def centroids(self) -> Manifest:
        return self._cluster(centroids_name(self.space.experiment, self.name), schema.CENTROIDS)

    def _cluster(self, name: str, table: pa.Schema) -> Manifest:
        experiment, (item_ids, matrix) = self.space.experiment, self.loaded()
        k = experiment.model.num_centers
        center, centroids = self.clustered(k)
        sizes = np.bincount(center, minlength=k)
        if table is schema.CENTERS:
            batch = centers.center_rows(item_ids, center)
        else:
            batch = centers.centroid_rows(centroids)
        counters = {
            "items": len(item_ids),
            "width": matrix.shape[1],
            "smallest": int(sizes.min()),
            "largest": int(sizes.max()),
        }
        return tables.write_table(
            self.space.uri(name), [batch], table, self.space.recipes[name], counters
        )

    def _clustered(self, k: int) -> tuple[Any, Any]:
        """The centre of each item that has the modality [n], and the centroids [k, d]."""
        return centers.clustered(self.loaded()[1], k)

    def _load(self) -> tuple[Any, Any]:
        """Item ids, ascending, and their vectors [n, d]."""
        rows = self.space.load(features_name(self.name), schema.FEATURES)
        width = self.space.manifest(features_name(self.name)).counters["width"]
        chunks = rows.column("vector").chunks  # one array could exceed Arrow's 2**31 values
        matrix = np.concatenate([c.flatten().to_numpy().reshape(-1, width) for c in chunks])
        return rows.column("item").to_numpy().astype(np.int64), matrix
