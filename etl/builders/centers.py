"""Builder of a modality's interest centers, for all numbers of centers k of an experiment."""

from dataclasses import dataclass
from functools import cache, cached_property

from pyspark.sql import DataFrame

from etl.builders.workspace import Workspace
from etl.graph import centers
from etl.graph.unit_vectors import in_sample, sample_vectors
from etl.spark.session import materialize
from etl.spark.vector_table import Vectors, VectorTable
from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.table_names import centers_name, centroids_name, features_name
from mdsrec.tables import Manifest

SAMPLE_BYTES = 256 << 20  # of the vectors that k-means runs on


@dataclass(frozen=True)
class Clustering:
    """k centers, each with at least one item."""

    centroids: Vectors  # [k, d]
    moves: dict[int, int]  # {item: center that k-means left empty}
    sizes: Ints  # [k]


class CenterBuilder:
    """Builder of the centers and centroids of one modality.

    One pass over the vectors assigns the items for all k.
    """

    def __init__(self, space: Workspace, modality: str) -> None:
        self.space = space
        self.modality = modality
        self.clustering = cache(self._clustering)

    def build_centers(self, k: int) -> Manifest:
        """Write the center of each item."""
        rows = centers.final_centers(self._assigned, k, self.clustering(k).moves)
        return self.space.write(
            centers_name(self.space.experiment, self.modality, k),
            rows,
            schema.CENTERS,
            ["item"],
            self.space.files_by_id("item", self.space.num_items),
            self._counters(k),
        )

    def build_centroids(self, k: int) -> Manifest:
        """Write the centroid of each center."""
        name = centroids_name(self.space.experiment, self.modality, k)
        batch = centers.centroid_rows(self.clustering(k).centroids)
        recipe = self.space.recipes[name]
        uri = self.space.uri(name)
        return tables.write_table(uri, [batch], schema.CENTROIDS, recipe, self._counters(k))

    @cached_property
    def _vectors(self) -> VectorTable:
        return self.space.vectors(self.modality)

    @property
    def _num_vectors(self) -> int:
        return self.space.manifest(features_name(self.modality)).rows

    @cached_property
    def _trained(self) -> dict[int, Vectors]:
        """Centroids by k as k-means found them: some centers may be empty."""
        max_sample = SAMPLE_BYTES // (4 * self._vectors.width)
        shares = {
            k: max(k, min(centers.SAMPLE_PER_CENTER * k, max_sample)) / self._num_vectors
            for k in self.space.experiment.all_num_centers()
        }
        items, vectors = sample_vectors(
            self.space.spark,
            self._vectors,
            self.space.num_items,
            max(shares.values()),
            self.space.num_tasks,
        )
        return {
            k: centers.train_centroids(vectors[in_sample(items, share)], k)
            for k, share in shares.items()
        }

    @cached_property
    def _assigned(self) -> DataFrame:
        """The nearest centroid of each item, for every k."""
        space = self.space
        rows = centers.assign_centers(
            space.spark, self._vectors, self._trained, self.space.num_items, space.num_tasks
        )
        return materialize(rows)

    def _clustering(self, k: int) -> Clustering:
        """Fill each empty center with an item that is far from its own center."""
        centroids, sizes = self._trained[k].copy(), centers.center_sizes(self._assigned, k)
        if (sizes > 0).all():
            return Clustering(centroids, {}, sizes)
        far = centers.farthest_items(self._assigned, k)
        moves = centers.moves_to_empty(sizes, far)
        center_of = {item: center for item, center, _ in far}
        for item, empty in moves.items():
            centroids[empty] = self._vectors.read(item, item + 1)[1][0]
            sizes[center_of[item]] -= 1
            sizes[empty] += 1
        return Clustering(centroids, moves, sizes)

    def _counters(self, k: int) -> dict[str, int]:
        sizes = self.clustering(k).sizes
        return {
            "items": self._num_vectors,
            "width": self._vectors.width,
            "smallest": int(sizes.min()),
            "largest": int(sizes.max()),
        }
