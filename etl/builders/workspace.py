"""What the builders of tables share: the experiment, its recipes, a Spark session that starts
when first asked.
"""

import uuid
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession

from etl.recipes import Inputs, raw_inputs, recipes
from etl.spark import table_io
from etl.spark.session import num_partitions, open_session
from etl.spark.sizing import uncompressed_bytes
from etl.spark.vector_table import VectorTable
from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.table_names import features_name
from mdsrec.tables import Manifest, Recipe


class Workspace:
    """One experiment's tables under its root."""

    def __init__(self, experiment: Experiment, spark: SparkSession | None = None) -> None:
        """`spark` is a session to use; None starts one when it is needed and `close` stops it."""
        self.experiment = experiment
        self.inputs: Inputs = raw_inputs(experiment)
        self.recipes: dict[str, Recipe] = recipes(experiment, self.inputs)
        self._given = spark
        self._checkpoints = self.uri(f".checkpoints-{uuid.uuid4().hex}")

    @cached_property
    def spark(self) -> SparkSession:
        if self._given is not None:
            return self._given
        raw = (*self.inputs.reviews, *self.inputs.metadata)
        input_bytes = sum(uncompressed_bytes(file.uri, file.size) for file in raw)
        checkpoints = table_io.spark_uri(self._checkpoints)
        return open_session(self.experiment.spark, input_bytes, checkpoints)

    @property
    def running(self) -> SparkSession | None:
        """The session, if it has started."""
        return self.__dict__.get("spark")

    @property
    def num_tasks(self) -> int:
        return num_partitions(self.spark)

    def close(self) -> None:
        if self.running is not None and self._given is None:
            self.running.stop()
            files.delete_folder(self._checkpoints)

    def uri(self, name: str) -> str:
        return tables.table_uri(self.experiment.root, name)

    def current_manifest(self, name: str) -> Manifest | None:
        return tables.find_table(self.uri(name), self.recipes[name])

    def manifest(self, name: str) -> Manifest:
        return tables.open_table(self.uri(name))

    @property
    def num_items(self) -> int:
        return self.manifest("items").rows

    def vectors(self, modality: str) -> VectorTable:
        """The modality's features, as tasks read them."""
        return VectorTable.open(self.uri(features_name(modality)))

    def read(self, name: str, table: pa.Schema) -> DataFrame:
        """The table as a DataFrame."""
        return table_io.read_table(self.spark, self.uri(name), table)

    def write(
        self,
        name: str,
        frame: DataFrame,
        table: pa.Schema,
        order: list[str],
        layout: table_io.FileLayout,
        counters: Mapping[str, Any],
    ) -> Manifest:
        """Commit `frame`; `cut` is the file of a row and the number of files (table_io.by_range,
        by_line).
        """
        recipe = self.recipes[name]
        return table_io.write_table(frame, self.uri(name), table, recipe, order, layout, counters)

    def files_by_id(self, key: str, num_keys: int) -> table_io.FileLayout:
        rows_per_file = self.experiment.spark.rows_per_file
        return table_io.files_by_id(key, num_keys, rows_per_file)
