"""Builder of a modality's features, with the checks of settings that depend on their number."""

from collections.abc import Mapping

from etl.builders.workspace import Workspace
from etl.catalogue.metadata import IMAGES
from etl.catalogue.raw import raw_files
from etl.features import encoding, vectors
from etl.features.column_vectors import ColumnVectors
from etl.features.vector_blocks import FILE_BYTES, VectorLocations, write_vectors
from etl.spark import table_io
from etl.tabular.spark_source import copy_columns
from etl.tabular.table_file import open_table
from etl.tabular.table_input import TableInput
from mdsrec import schema, tables
from mdsrec.errors import InputError
from mdsrec.table_names import features_name
from mdsrec.tables import Manifest


class FeatureBuilder:
    """Builder of the features of one modality."""

    def __init__(self, space: Workspace, modality: str) -> None:
        self.space = space
        self.modality = modality
        self.config = space.experiment.features[modality]
        self.table = features_name(modality)

    def build_features(self) -> Manifest:
        located = self._locate_vectors()
        num_items, num_vectors = self.space.num_items, located.locations.count()
        if not num_vectors:
            raise InputError(
                f"features.{self.modality}: none of {num_items} items has a vector"
                f"{_missed_reasons(located.counters)}: {self._remedy()}, or remove the section"
            )
        counters = {
            "width": located.width,
            "items": num_vectors,
            "items_without": num_items - num_vectors,
            **located.counters,
        }
        uri = self.space.uri(self.table)
        version = tables.new_version(uri)
        rows_per_file = min(
            self.space.experiment.spark.rows_per_file, max(1, FILE_BYTES // (4 * located.width))
        )
        layout = table_io.files_by_id("item", num_items, rows_per_file)
        rows = write_vectors(located, layout, version, self.space.num_tasks)
        return self.space.commit(self.table, version, rows, counters)

    def _locate_vectors(self) -> VectorLocations:
        """Return where the vector of each item is, after encoding if there is an encoder."""
        items = self.space.read("items", schema.ITEMS)
        if self.config.encoder is None:
            catalogue = items.select("item_id", "item")
            spark, num_tasks = self.space.spark, self.space.num_tasks
            if self.config.column is not None:
                source = self.open_column(self.config.column)
                return vectors.locate_column(spark, self.config, source, catalogue, num_tasks)
            return vectors.locate_vectors(spark, self.config, catalogue, num_tasks)
        name = encoding.cache_name(self.config, self.space.hashes)
        shared = self.space.experiment.features.cache
        folder = self.space.uri(name) if shared is None else f"{shared}/{name}"
        return encoding.encode_items(
            items, self.config, folder, self.space.num_tasks, self.table, self._image_folder()
        )

    def open_column(self, column: str) -> ColumnVectors:
        """Open a column of the table of items. A Spark source is first copied to Parquet."""
        space, config = self.space, self.space.experiment.input
        items = TableInput(config, space.inputs.interactions, space.inputs.items)
        key = items.item_columns(space.spark).item
        if config.source is None:
            return ColumnVectors(tuple(items.item_files), key, column)
        folders = [f"{space.scratch(self.table)}/{n}" for n in range(len(config.names("items")))]
        for name, folder in zip(config.names("items"), folders, strict=True):
            copy_columns(space.spark, config, name, [key, column], table_io.spark_uri(folder))
        files = [open_table(file, None) for file in raw_files(folders, (".parquet",))]
        return ColumnVectors(tuple(files), key, column)

    def _image_folder(self) -> str | None:
        """Return the folder of the items' file, which the paths of their images are relative to."""
        if self.space.experiment.input.format != "table" or self.config.images != "url":
            return None
        return self.space.inputs.items[0].uri.rpartition("/")[0]

    def _remedy(self) -> str:
        if self.config.sees == "text" and self.space.experiment.input.format == "table":
            return "name columns that hold text in input.columns.text"
        if self.config.sees == "text":
            return f"choose metadata fields that hold text; fields = {list(self.config.fields)}"
        if self.config.images == "url":
            if self.space.experiment.input.format == "table":
                return "name the column of addresses or paths in input.columns.image"
            return f"give metadata with image addresses (one of {', '.join(IMAGES)})"
        return "name the files or rows by the ids of the items"

    def check_settings(self) -> None:
        """Raise InputError if a setting needs more items with this modality than there are."""
        experiment = self.space.experiment
        num_vectors = self.space.manifest(self.table).rows
        if num_vectors < 2:
            raise InputError(
                f"features.{self.modality}: only one item has a vector: remove the section"
            )
        experiment.model.check_fits(self.modality, num_vectors)
        most_centers = max(experiment.graph.num_centers, default=0)
        if most_centers > num_vectors:
            raise InputError(
                f"graph.num_centers = {most_centers}, but only {num_vectors} items have the "
                f"modality {self.modality}: lower it"
            )


def _missed_reasons(counters: Mapping[str, int]) -> str:
    """Return the reasons why images are missing, as ` (missed: 404 30, missed: timeout 2)`."""
    missed = [f"{reason} {n}" for reason, n in counters.items() if reason.startswith("missed: ")]
    return f" ({', '.join(missed)})" if missed else ""
