"""Builder of a modality's item graph: N(O) E, then the neighbors for each mu (Eq. 3-5)."""

import logging
from dataclasses import replace

from etl.builders.workspace import Workspace
from etl.graph import cells, neighbors, propagation, recall
from etl.graph.neighbor_lists import write_lists
from etl.graph.tiles import plan_tiles
from etl.graph.unit_vectors import SmoothedVectors, UnitVectors, in_sample, sample_vectors
from etl.graph.whitening import Whitening
from etl.spark.session import task_memory
from etl.spark.table_io import range_width
from etl.spark.vector_table import ItemTable, VectorTable
from mdsrec import files, schema, tables
from mdsrec.errors import InputError
from mdsrec.table_names import cooccurrence_name, features_name, neighbors_name, propagated_name
from mdsrec.tables import Manifest

log = logging.getLogger("etl")

SAMPLE_BYTES = 256 << 20  # of the vectors that k-means and the whitening read
FILE_BYTES = 64 << 20  # of the lists in one file: a task holds them in memory to write it
EXACT_UP_TO = 32_768  # vectors: an exact search among so many takes seconds


class GraphBuilder:
    """Builder of the graph tables of one modality."""

    def __init__(self, space: Workspace, modality: str) -> None:
        self.space = space
        self.modality = modality
        self.config = space.experiment.graph

    def build_propagated(self) -> Manifest:
        """Write N(O) E, which is the same for every mu."""
        name = propagated_name(self.space.experiment, self.modality)
        uri, vectors = self.space.uri(name), self.space.vectors(self.modality)
        graph = ItemTable.open(
            self.space.uri(cooccurrence_name(self.space.experiment)), schema.COOCCURRENCE
        )
        product = self._product(graph, vectors)
        scratch, version = tables.new_version(uri), tables.new_version(uri)
        try:
            if self.config.normalize == "symmetric":
                product = replace(product, degrees=self._degrees(product, f"{scratch}/degrees"))
            rows = propagation.write_product(self.space.spark, product, scratch, version, name)
        finally:
            files.delete_folder(scratch)
        counters = {"width": vectors.width, "items": rows}
        return self.space.commit(name, version, rows, counters)

    def _product(self, graph: ItemTable, vectors: VectorTable) -> propagation.Propagation:
        """Return the product of O and E with tiles that fit in the memory of a task."""
        space = self.space
        entries = space.manifest(cooccurrence_name(space.experiment)).rows
        memory, cores = task_memory(space.spark), space.spark.sparkContext.defaultParallelism
        tiles = plan_tiles(space.num_items, vectors.width, entries, memory, cores)
        return propagation.Propagation(
            graph, vectors, space.num_items, tiles, self.config.normalize
        )

    def _degrees(self, product: propagation.Propagation, folder: str) -> VectorTable:
        """Write the degrees, which need no slice of E, and return them as vectors of width 1."""
        whole = replace(product, tiles=replace(product.tiles, slices=((0, 0),)))
        propagation.write_tiles(self.space.spark, whole, (None,), (folder,))
        return VectorTable(ItemTable.uncommitted(folder, schema.FEATURES), 1)

    def build_neighbors(self, mu: float) -> Manifest:
        """Write the H_max nearest neighbors of every item that has the modality.

        Raises InputError if the search finds less than `graph.min_recall` of them.
        """
        name = neighbors_name(self.space.experiment, self.modality, mu)
        uri = self.space.uri(name)
        scratch, version = tables.new_version(uri), tables.new_version(uri)
        try:
            counters = self._write_neighbors(name, self._unit_vectors(mu), scratch, version)
        except InputError:
            files.delete_folder(version)
            raise
        finally:
            files.delete_folder(scratch)
        return self.space.commit(name, version, int(counters["items"]), counters)

    def _unit_vectors(self, mu: float) -> UnitVectors:
        smoothed = self.space.smoothed_vectors(self.modality, mu)
        return UnitVectors(smoothed, self._whitening(smoothed) if self.config.whiten else None)

    def _whitening(self, vectors: SmoothedVectors) -> Whitening:
        """Fit the whitening to a sample of the items, or to all where they fit in memory."""
        num_vectors = self.space.manifest(features_name(self.modality)).rows
        share = min(1.0, SAMPLE_BYTES / (4 * vectors.width * num_vectors))
        _, sample = sample_vectors(
            self.space.spark, vectors, self.space.num_items, share, self.space.num_tasks
        )
        return Whitening.fit(sample)

    def _write_neighbors(
        self, name: str, vectors: UnitVectors, scratch: str, version: str
    ) -> dict[str, float]:
        """Search the cells and write the lists below `version`; return the table's counters."""
        space, spark, tasks = self.space, self.space.spark, self.space.num_tasks
        num_vectors = space.manifest(features_name(self.modality)).rows
        count = min(self.config.max_neighbors, num_vectors - 1)
        num_cells = cells.target_num_cells(num_vectors)
        max_sample = max(1, SAMPLE_BYTES // (4 * vectors.width))
        share = min(max_sample, max(recall.SAMPLE, num_cells * cells.SAMPLE_PER_CELL)) / num_vectors
        items, sample = sample_vectors(spark, vectors, self.space.num_items, share, tasks)
        centroids = cells.train_centroids(sample, num_cells)
        stored = cells.write_cells(spark, vectors, self.space.num_items, centroids, scratch, tasks)
        few = in_sample(items, recall.SAMPLE / num_vectors)
        exact_sample = recall.search_exactly(spark, stored, items[few], sample[few], count, tasks)
        exact = self.config.search == "exact" or num_vectors <= EXACT_UP_TO
        overlap = len(stored) if exact else self._overlap(name, exact_sample, len(stored))
        rows_per_file = min(space.experiment.spark.rows_per_file, FILE_BYTES // (8 * count))
        width = range_width(self.space.num_items, rows_per_file)
        packed = neighbors.find_neighbors(
            spark, neighbors.Search(stored, count, overlap), width, tasks
        )
        parts = -(-self.space.num_items // width)
        written = write_lists(packed, parts, count, exact_sample, version)
        log.info("%s: recall@%d %.4f on %d items", name, count, written.recall, few.sum())
        self._check_recall(name, written.recall)
        return {
            "items": num_vectors,
            "neighbors": count,
            "cells": len(stored),
            "overlap": overlap,
            "recall": round(written.recall, 4),
            "lists_cut_short": written.lists_cut_short,
        }

    def _overlap(self, name: str, sample: recall.ExactSample, num_cells: int) -> int:
        """Return how many of the nearest cells to search for each item."""
        config = self.config
        overlap = recall.choose_overlap(
            sample, num_cells, config.min_recall, config.max_overlap, name
        )
        log.info("%s: search %d of %d cells per item", name, overlap, num_cells)
        return overlap

    def _check_recall(self, name: str, found: float) -> None:
        if found < self.config.min_recall:
            raise InputError(
                f"{name}: recall {found:.4f} is below graph.min_recall = {self.config.min_recall}: "
                'set graph.search = "exact" or lower graph.min_recall'
            )
