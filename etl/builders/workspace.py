"""The state that builders share: the experiment, its recipes and a Spark session started lazily."""

import uuid
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from etl.builders.leftovers import CHECKPOINTS
from etl.catalogue.content_hashes import ContentHashes
from etl.graph.unit_vectors import SmoothedVectors
from etl.recipes import RawInputs, raw_inputs, recipes
from etl.spark import table_io
from etl.spark.file_checks import digests_by_tasks
from etl.spark.session import num_partitions, open_session, stop_quietly
from etl.spark.sizing import uncompressed_bytes
from etl.spark.table_io import FileLayout
from etl.spark.vector_table import VectorTable
from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.run_tables import is_needed
from mdsrec.table_names import features_name, propagated_name
from mdsrec.tables import Manifest, Needed, Recipe


class FileCounts(NamedTuple):
    """Numbers of raw files that a build parsed, and of those whose parsed lines were stored."""

    parsed: int
    kept: int


class Workspace:
    """The tables of one experiment under its root."""

    def __init__(self, experiment: Experiment, spark: SparkSession | None = None) -> None:
        """Use the session `spark`. With None one starts at its first use, and `close` stops it."""
        self.experiment = experiment
        self.inputs: RawInputs = raw_inputs(experiment)
        self.recipes: dict[str, Recipe] = recipes(experiment, self.inputs)
        self.hashes = ContentHashes(experiment.root)
        self.file_counts: dict[str, FileCounts] = {}  # by kind, of what this build has read
        self._given_spark = spark
        self._checkpoints = self.uri(f"{CHECKPOINTS}{uuid.uuid4().hex}")

    @cached_property
    def spark(self) -> SparkSession:
        if self._given_spark is not None:
            return self._given_spark
        checkpoints = table_io.spark_uri(self._checkpoints)
        return open_session(self.experiment.spark, self.input_bytes, checkpoints)

    @property
    def input_bytes(self) -> int:
        """Approximate size of the raw files after decompression."""
        raw = (*self.inputs.interactions, *self.inputs.items)
        return sum(uncompressed_bytes(file.uri, file.size) for file in raw)

    @property
    def spark_if_started(self) -> SparkSession | None:
        return self.__dict__.get("spark")  # the cache of cached_property

    @property
    def num_tasks(self) -> int:
        return num_partitions(self.spark)

    def close(self) -> None:
        """Stop the session, if it was started here, and delete its checkpoints."""
        if self.spark_if_started is None:
            return
        if self._given_spark is None:
            self.spark_if_started.stop()
        files.delete_folder(self._checkpoints)

    def abandon(self) -> None:
        """Stop the session, if it was started here, while it still works: a signal has arrived."""
        if self._given_spark is None and self.spark_if_started is not None:
            stop_quietly(self.spark)
            del self.spark  # so `close` does not stop it again
            files.delete_folder(self._checkpoints)

    def scratch(self, name: str) -> str:
        """Return a folder that `close` deletes."""
        return f"{self._checkpoints}/{name}"

    def uri(self, name: str) -> str:
        return tables.table_uri(self.experiment.root, name)

    def find_table(self, name: str) -> Manifest | None:
        """Return the table's manifest if the table is up to date and complete."""
        return tables.find_table(self.uri(name), self.recipes[name])

    def restore(self, name: str) -> Manifest | None:
        """Make a kept former version the table again, if this recipe built it; None if not."""
        return tables.restore(self.uri(name), self.recipes[name], self._needed(name))

    def _needed(self, name: str) -> Needed:
        return partial(is_needed, self.experiment.root, name)

    def outdated(self) -> frozenset[str]:
        """Return the tables that are missing, damaged or not up to date."""
        return frozenset(name for name in self.recipes if self.find_table(name) is None)

    def contents(self, name: str) -> list[str]:
        """Return the hashes of the files that a table is made from, in the order of the input."""
        return list(self.recipes[name].inputs.values())

    def manifest(self, name: str) -> Manifest:
        return tables.open_table(self.uri(name))

    @property
    def num_items(self) -> int:
        return self.manifest("items").rows

    def vectors(self, modality: str) -> VectorTable:
        """Return the modality's features in the form that tasks read."""
        return VectorTable.open(self.uri(features_name(modality)))

    def smoothed_vectors(self, modality: str, mu: float) -> SmoothedVectors:
        """Return Ebar of a modality (Eq. 3) in the form that tasks read."""
        propagated = self.uri(propagated_name(self.experiment, modality))
        return SmoothedVectors(
            self.vectors(modality), VectorTable.open(propagated) if mu else None, mu
        )

    def read(self, name: str, table_schema: pa.Schema) -> DataFrame:
        return table_io.read_table(self.spark, self.uri(name), table_schema)

    def write(
        self,
        name: str,
        frame: DataFrame,
        table_schema: pa.Schema,
        order: list[str],
        layout: FileLayout,
        counters: Mapping[str, Any],
    ) -> Manifest:
        """Write and commit `frame`, sorted by `order`, as the table `name`."""
        return table_io.write_table(
            frame,
            self.uri(name),
            table_schema,
            self.recipes[name],
            order,
            layout,
            counters,
            self._needed(name),
        )

    def commit(self, name: str, version: str, rows: int, counters: Mapping[str, Any]) -> Manifest:
        """Commit the files that tasks wrote into the folder `version` as the table `name`."""
        uri, recipe = self.uri(name), self.recipes[name]
        digest_files = digests_by_tasks(self.spark, uri)
        needed = self._needed(name)
        return tables.commit(uri, version, recipe, rows, counters, digest_files, needed)

    def files_by_id(self, key: str, num_keys: int) -> FileLayout:
        rows_per_file = self.experiment.spark.rows_per_file
        return table_io.files_by_id(key, num_keys, rows_per_file)
