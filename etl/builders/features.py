"""Builder of one modality's features, and what the configuration may ask of them."""

from collections.abc import Mapping

from etl.builders.workspace import Workspace
from etl.features import encoding, vectors
from etl.features.vector_blocks import FILE_BYTES, Placed, write_vectors
from etl.spark import table_io
from mdsrec import schema, tables
from mdsrec.errors import InputError
from mdsrec.table_names import features_name
from mdsrec.tables import Manifest


class FeatureBuilder:
    """One modality of an experiment."""

    def __init__(self, space: Workspace, name: str) -> None:
        self.space = space
        self.name = name
        self.config = space.experiment.features[name]

    def features(self) -> Manifest:
        placed = self._placed()
        num_items, found = self.space.num_items, placed.places.count()
        if not found:
            raise InputError(
                f"features.{self.name}: no item has it, of {num_items}{_reasons(placed.counters)}: "
                "leave the section out"
            )
        counters = {
            "width": placed.width,
            "items": found,
            "items_without": num_items - found,
            **placed.counters,
        }
        name = features_name(self.name)
        uri = self.space.uri(name)
        version = tables.new_version(uri)
        rows_per_file = min(
            self.space.experiment.spark.rows_per_file, FILE_BYTES // (4 * placed.width)
        )
        cut = table_io.files_by_id("item", num_items, rows_per_file)
        written = write_vectors(placed, cut, version, self.space.num_tasks)
        return tables.commit(uri, version, self.space.recipes[name], written, counters)

    def _placed(self) -> Placed:
        items = self.space.read("items", schema.ITEMS)
        if self.config.encoder is None:
            catalogue = items.select("asin", "item")
            return vectors.brought(self.space.spark, self.config, catalogue, self.space.num_tasks)
        folder = self.space.uri(encoding.cache_name(self.config))
        name = features_name(self.name)
        return encoding.encoded(items, self.config, folder, self.space.num_tasks, name)

    def check(self) -> None:
        """InputError where the configuration asks for more than the modality's items can give."""
        found = self.space.manifest(features_name(self.name)).rows
        if found < 2:
            raise InputError(f"features.{self.name}: one item has it: leave the section out")
        self.space.experiment.model.check_fits(self.name, found)
        if max(self.space.experiment.graph.num_centers, default=0) > found:
            raise InputError(
                f"graph.num_centers asks for {max(self.space.experiment.graph.num_centers)}, but "
                f"{found} items have the modality {self.name}"
            )


def _reasons(counters: Mapping[str, int]) -> str:
    """` (missed: 404 30, missed: timeout 2)`: why images could not be had."""
    missed = [f"{why} {n}" for why, n in counters.items() if why.startswith("missed: ")]
    return f" ({', '.join(missed)})" if missed else ""
