"""Builder of the memory of transitions: counts, then these spread over the neighbors of items."""

from dataclasses import replace

from etl.builders.workspace import Workspace
from etl.catalogue.sequences import only_training_events
from etl.graph.cooccurrence import write_cooccurrence
from etl.graph.weighting import Transitions
from etl.spark.vector_table import ItemTable
from etl.transitions.memory import write_memory, write_transposed
from etl.transitions.spreading import Spreading
from mdsrec import files, schema, tables
from mdsrec.table_names import memory_name, neighbors_name, transitions_name
from mdsrec.tables import Manifest


class TransitionsBuilder:
    """Builder of the tables `transitions` and `memory`."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.config = space.experiment.transitions
        self.rows_per_file = space.experiment.spark.rows_per_file

    def build_transitions(self) -> Manifest:
        """Write the weighted counts of the training events."""
        name = transitions_name(self.space.experiment)
        uri = self.space.uri(name)
        version = tables.new_version(uri)
        weighting = Transitions(
            decay=self.config.decay,
            reverse=self.config.reverse,
            max_distance=self.config.max_distance,
        )
        sequences = self.space.read("sequences", schema.SEQUENCES)
        rows, counters = write_cooccurrence(
            sequences.transform(only_training_events),
            self.space.num_items,
            weighting,
            version,
            self.rows_per_file,
        )
        return self.space.commit(name, version, rows, counters)

    def build_memory(self) -> Manifest:
        """Write the counts spread over the neighbors in all modalities."""
        space, experiment = self.space, self.space.experiment
        name, counted = memory_name(experiment), transitions_name(experiment)
        uri = space.uri(name)
        version = tables.new_version(uri)
        neighbors = [
            neighbors_name(experiment, modality, self.config.mu)
            for modality in experiment.memory_modalities
        ]
        spreading = Spreading(
            ItemTable.open(space.uri(counted), schema.TRANSITIONS),
            tuple(ItemTable.open(space.uri(table), schema.NEIGHBORS) for table in neighbors),
            space.num_items,
            space.manifest(counted).rows,
            self.config,
        )
        scratch = tables.new_version(uri)
        try:
            if spreading.spreads:
                transposed = write_transposed(space.spark, spreading, scratch)
                spreading = replace(spreading, neighbors_to=transposed)
            rows, counters = write_memory(space.spark, spreading, version, self.rows_per_file)
        finally:
            files.delete_folder(scratch)
        return space.commit(name, version, rows, counters)
