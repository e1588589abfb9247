"""Builder of the places of items: an order in which near items are neighbors."""

import logging

from pyspark.sql import DataFrame

from etl.builders.workspace import Workspace
from etl.graph.unit_vectors import sample_vectors
from etl.places.bisection import fit_tree
from etl.places.joint_vectors import JointVectors, searched_vectors
from etl.places.order import locate_items, number_places
from etl.places.remote import RemoteShares, measure_remote, read_owners
from etl.spark.session import materialize
from etl.spark.table_io import write_files
from etl.spark.vector_table import ItemTable
from mdsrec import schema, tables
from mdsrec.table_names import features_name, neighbors_name, places_name
from mdsrec.tables import Manifest

log = logging.getLogger("etl")

SAMPLE_ITEMS = 1 << 17
SAMPLE_BYTES = 256 << 20  # of their vectors


class PlacesBuilder:
    """Builder of the table `places`."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.modalities = space.experiment.neighbor_modalities

    def build_places(self) -> Manifest:
        """Write the place of each item, and measure how many neighbors are on other shards."""
        space, name = self.space, places_name(self.space.experiment)
        uri = space.uri(name)
        version = tables.new_version(uri)
        order = number_places(materialize(self._locate_items()))
        layout = space.files_by_id("item", space.num_items)
        rows = write_files(order, version, schema.PLACES, ["item"], layout)
        shares = self._measure_remote(version)
        log.info("%s: %s", name, shares)
        return space.commit(name, version, rows, shares.counters)

    def _locate_items(self) -> DataFrame:
        """Fit the tree to a sample and find the leaf of every item."""
        space, experiment = self.space, self.space.experiment
        smoothed = [space.smoothed_vectors(m, experiment.model.mus(m)[0]) for m in self.modalities]
        joint = JointVectors(tuple(smoothed))
        num_vectors = sum(space.manifest(features_name(m)).rows for m in self.modalities)
        most = min(SAMPLE_ITEMS, SAMPLE_BYTES // (4 * joint.width))
        share = min(1.0, most / min(num_vectors, space.num_items))
        size = space.num_items, share, space.num_tasks
        _, sample = sample_vectors(space.spark, joint, *size)
        vectors, searched = searched_vectors(smoothed, sample, experiment.graph.whiten)
        tree = fit_tree(sample, searched)
        return locate_items(space.spark, vectors, tree, space.num_items, space.num_tasks)

    def _measure_remote(self, version: str) -> RemoteShares:
        space, experiment = self.space, self.space.experiment
        lists = [
            ItemTable.open(space.uri(neighbors_name(experiment, m)), schema.NEIGHBORS)
            for m in self.modalities
        ]
        owners = read_owners(version, space.num_items)
        nearest = experiment.nearest_read
        return measure_remote(space.spark, lists, nearest, owners, space.num_tasks)
