"""Builder of the tables that all modalities share, from raw lines to items and co-occurrence."""

from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.builders.raw_input import ParsedLines, open_input
from etl.builders.workspace import Workspace
from etl.catalogue import categories, cold, completeness, interactions, items, sequences, split
from etl.catalogue.interactions import EventCounts
from etl.graph import cooccurrence
from etl.graph.heaviest import write_heaviest
from etl.graph.weighting import Cooccurrence
from etl.spark import table_io
from etl.spark.rows import frame_of_rows
from etl.spark.session import materialize
from etl.spark.vector_table import ItemTable
from mdsrec import schema, tables
from mdsrec.errors import InputError
from mdsrec.table_names import CATEGORIES, cooccurrence_name, whole_cooccurrence_name
from mdsrec.table_settings import text_fields
from mdsrec.tables import Manifest

SOURCES = pa.schema({"file": pa.int32(), "position": pa.int32(), "source": pa.string()})
CATEGORIES_READ = (
    ("items", schema.ITEMS),
    ("metadata", schema.METADATA),
    ("interactions", schema.INTERACTIONS),
)


@dataclass
class Selection:
    """The interactions left after repeats and the k-core, and the catalogue (item_id, item)."""

    events: DataFrame
    catalogue: DataFrame
    num_items: int  # of the catalogue
    counters: dict[str, int]
    counts: EventCounts  # of `events`


class CatalogueBuilder:
    """Builder of the shared tables. Intermediate results that two of them need are cached."""

    def __init__(self, space: Workspace) -> None:
        _check_full_catalogue(space)
        self.space = space
        self.raw = open_input(space)
        self.rows_per_file = space.experiment.spark.rows_per_file

    @cached_property
    def selection(self) -> Selection:
        config = self.space.experiment.sequences
        raw = self.space.read("interactions", schema.INTERACTIONS)
        unrepeated = materialize(interactions.drop_repeated(raw, config.repeats))
        before = interactions.count_events(unrepeated)
        events = interactions.only_k_core(unrepeated, config.k_core)
        after = interactions.count_events(events)
        interactions.check_not_empty(after, before, config.k_core)
        metadata = self.space.read("metadata", schema.METADATA)
        catalogue = items.build_catalogue(events, metadata, config.catalogue)
        num_items = catalogue.count()
        items.check_num_items(num_items)
        counters = {
            "repeats_dropped": self.space.manifest("interactions").rows - before.events,
            "k_core_dropped_users": before.users - after.users,
            "k_core_dropped_items": before.items - after.items,
            "k_core_dropped_events": before.events - after.events,
            "users": after.users,
            "items": num_items,
            "items_interacted": after.items,
            "interactions": after.events,
        }
        return Selection(events, catalogue, num_items, counters, after)

    def build_interactions(self) -> Manifest:
        interactions = self.raw.interactions
        return self._write_parsed(
            "interactions", interactions, schema.INTERACTIONS, self.raw.counters
        )

    def build_metadata(self) -> Manifest:
        records = self.raw.records
        notes = completeness.count_notes(records.rows)
        return self._write_parsed("metadata", records, schema.METADATA, notes)

    def _write_parsed(
        self, name: str, parsed: ParsedLines, table_schema: pa.Schema, notes: dict[str, Any]
    ) -> Manifest:
        layout = table_io.files_by_line(parsed.lines, self.rows_per_file)
        order, counters = ["file", "line"], parsed.counters | notes
        return self.space.write(name, parsed.usable_rows, table_schema, order, layout, counters)

    def build_rejects(self) -> Manifest:
        kinds = dict(zip(self.raw.kinds, (self.raw.interactions, self.raw.records), strict=True))
        sources = sorted({file.uri for parsed in kinds.values() for file in parsed.files})
        lines = dict.fromkeys(range(len(sources)), 0)
        for parsed in kinds.values():
            for file, count in parsed.lines.items():
                lines[sources.index(parsed.files[file].uri)] = count
        rows = reduce(DataFrame.unionAll, (_with_source(p, sources) for p in kinds.values()))
        counters = {
            f"{kind}: {reason}": n
            for kind, parsed in kinds.items()
            for reason, n in parsed.num_rejected.items()
        }
        layout = table_io.files_by_line(lines, self.rows_per_file)
        return self.space.write("rejects", rows, schema.REJECTS, ["file", "line"], layout, counters)

    def build_sequences(self) -> Manifest:
        selection, config = self.selection, self.space.experiment.sequences
        cut = split.time_cut(selection.events, config, self.raw.ticks)
        events, counts, cold_counters = self._drop_cold(cut)
        rows = materialize(sequences.build_sequences(events, selection.catalogue, cut))
        counters: dict[str, Any] = selection.counters | cold_counters
        counters |= sequences.split_counters(rows)
        if cut is not None:
            split.check_targets(rows, cut, config, self.raw.ticks)
            counters |= split.cut_counters(cut, self.raw.ticks)
        layout = self.space.files_by_id("user", counts.users)
        return self.space.write("sequences", rows, schema.SEQUENCES, ["user"], layout, counters)

    def _drop_cold(
        self, cut: split.TimeCut | None
    ) -> tuple[DataFrame, EventCounts, dict[str, int]]:
        """Return the events of the sequences, their counts, and counters of what was held out."""
        selection, share = self.selection, self.space.experiment.sequences.cold_share
        if share == 0:
            return selection.events, selection.counts, {}
        events = cold.drop_cold(selection.events, share, cut)
        counts = interactions.count_events(events)
        cold.check_not_empty(counts, selection.counts, share)
        counters = cold.counters(events, selection.catalogue, share, counts, selection.counts)
        return events, counts, counters

    def build_items(self) -> Manifest:
        selection = self.selection
        metadata = self.space.read("metadata", schema.METADATA)
        fields = text_fields(self.space.experiment)
        rows = materialize(
            items.build_items(selection.catalogue, metadata, self.training_events, fields)
        )
        counters = items.counters(rows, metadata, selection.events)
        layout = self.space.files_by_id("item", selection.num_items)
        return self.space.write("items", rows, schema.ITEMS, ["item"], layout, counters)

    def build_categories(self) -> Manifest:
        space, files = self.space, self.space.inputs.categories
        assert files is not None
        items, metadata, events = (space.read(*table) for table in CATEGORIES_READ)
        rows = materialize(categories.build_categories(items, metadata, events, files))
        counters = categories.count_items(rows, tuple(space.experiment.input.categories))
        layout = space.files_by_id("item", space.num_items)
        return space.write(CATEGORIES, rows, schema.CATEGORIES, ["item"], layout, counters)

    @property
    def training_events(self) -> DataFrame:
        """DataFrame(items): the training events of each sequence."""
        rows = self.space.read("sequences", schema.SEQUENCES)
        return rows.transform(sequences.only_training_events)

    def build_cooccurrence(self) -> Manifest:
        name = whole_cooccurrence_name(self.space.experiment)
        uri, graph = self.space.uri(name), self.space.experiment.graph
        version = tables.new_version(uri)
        rows, counters = cooccurrence.write_cooccurrence(
            self.training_events,
            self.space.manifest("sequences").counters["items"],
            Cooccurrence(distance=graph.distance, max_distance=graph.max_distance),
            version,
            self.rows_per_file,
        )
        return self.space.commit(name, version, rows, counters)

    def build_heaviest(self) -> Manifest:
        """Write the heaviest entries of each row of O."""
        space, most = self.space, self.space.experiment.graph.max_cooccurrences
        assert most is not None
        name, whole = (f(space.experiment) for f in (cooccurrence_name, whole_cooccurrence_name))
        uri = space.uri(name)
        version = tables.new_version(uri)
        rows, counters = write_heaviest(
            space.spark,
            ItemTable.open(space.uri(whole), schema.COOCCURRENCE),
            space.num_items,
            space.manifest(whole).rows,
            most,
            version,
            self.rows_per_file,
        )
        return space.commit(name, version, rows, counters)


def _check_full_catalogue(space: Workspace) -> None:
    if space.experiment.sequences.catalogue == "full" and not space.inputs.items:
        raise InputError(
            'sequences.catalogue = "full" needs input.metadata or input.items, which list no file: '
            "items without interactions come from there"
        )


def _with_source(parsed: ParsedLines, sources: list[str]) -> DataFrame:
    """Add `source`, the file's URI, to rejected rows; `file` becomes its position in `sources`.

    A table stays up to date when its input is copied or moved. Then `source` is the former place.
    """
    positions = [
        {"file": number, "position": sources.index(file.uri), "source": file.uri}
        for number, file in enumerate(parsed.files)
    ]
    rows = parsed.rejected_rows
    named = frame_of_rows(rows.sparkSession, positions, SOURCES)
    return rows.join(F.broadcast(named), "file").select(
        F.col("position").alias("file"), "line", "source", "reason", "raw"
    )
