"""Builders of the tables that every modality shares: from raw lines to items and O."""

from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.builders.workspace import Workspace
from etl.catalogue import amazon, cold, interactions, items, sequences, split
from etl.catalogue.interactions import EventCounts
from etl.catalogue.raw import RawFile, raw_lines
from etl.graph import cooccurrence
from etl.graph.pairs import Weighting
from etl.spark import table_io
from etl.spark.session import materialize
from mdsrec import schema, tables
from mdsrec.errors import InputError
from mdsrec.table_names import cooccurrence_name
from mdsrec.table_settings import text_fields
from mdsrec.tables import Manifest


@dataclass
class Parsed:
    """All lines of one kind of raw file, parsed once; `lines` and `reasons` are counted by one
    pass.
    """

    rows: DataFrame
    files: tuple[RawFile, ...]
    lines: dict[int, int] = field(default_factory=dict)  # lines of each file
    reasons: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows.persist()
        groups = self.rows.groupBy("file", "reason").agg(
            F.count("*").alias("rows"), F.max("line").alias("last")
        )
        for row in sorted(groups.collect(), key=lambda r: (r.file, r.reason or "")):
            self.lines[row.file] = max(self.lines.get(row.file, 0), row["last"])
            if row.reason is not None:
                self.reasons[row.reason] = self.reasons.get(row.reason, 0) + row.rows

    @property
    def usable(self) -> DataFrame:
        return self.rows.where(F.col("reason").isNull()).drop("reason", "raw")

    @property
    def bad(self) -> dict[str, int]:
        """Lines by the reason for which they are rejected; blank lines are only counted."""
        return {reason: n for reason, n in self.reasons.items() if reason != amazon.BLANK}

    @property
    def counters(self) -> dict[str, int]:
        return {
            "files": len(self.files),
            "lines": sum(self.lines.values()),
            "blank": self.reasons.get(amazon.BLANK, 0),
            "rejected": sum(self.bad.values()),
        }


@dataclass
class Kept:
    """The interactions that stay, the catalogue (asin, item), and how many went where."""

    events: DataFrame
    catalogue: DataFrame
    num_items: int  # of the catalogue
    counters: dict[str, int]
    size: EventCounts


class CatalogueBuilder:
    """Builds each shared table; what two of them need is computed once."""

    def __init__(self, space: Workspace) -> None:
        _check_catalogue(space)
        self.space = space
        self.rows_per_file = space.experiment.spark.rows_per_file

    @cached_property
    def reviews(self) -> Parsed:
        files, edition = self.space.inputs.reviews, self.space.experiment.input.edition
        lines = raw_lines(self.space.spark, files)
        parsed = Parsed(amazon.parse_reviews(lines, edition), files)
        _check_usable(parsed, "review", edition)
        return parsed

    @cached_property
    def records(self) -> Parsed:
        files, edition = self.space.inputs.metadata, self.space.experiment.input.edition
        lines = raw_lines(self.space.spark, files)
        parsed = Parsed(amazon.parse_metadata(lines, edition), files)
        if files:
            _check_usable(parsed, "metadata record", edition)
        return parsed

    @cached_property
    def kept(self) -> Kept:
        config = self.space.experiment.sequences
        raw = self.space.read("interactions", schema.INTERACTIONS)
        unrepeated = materialize(interactions.drop_repeated(raw, config.repeats))
        before = interactions.count_events(unrepeated)
        events = interactions.only_k_core(unrepeated, config.k_core)
        size = interactions.count_events(events)
        interactions.check_not_empty(size, before, config.k_core)
        metadata = self.space.read("metadata", schema.METADATA)
        catalogue = items.catalogue(events, metadata, config.catalogue)
        num_items = catalogue.count()
        counters = {
            "repeats_dropped": self.space.manifest("interactions").rows - before.events,
            "k_core_dropped_users": before.users - size.users,
            "k_core_dropped_items": before.items - size.items,
            "k_core_dropped_events": before.events - size.events,
            "users": size.users,
            "items": num_items,
            "items_interacted": size.items,
            "interactions": size.events,
        }
        return Kept(events, catalogue, num_items, counters, size)

    def interactions(self) -> Manifest:
        cut = table_io.files_by_line(self.reviews.lines, self.rows_per_file)
        return self._write_parsed("interactions", self.reviews, schema.INTERACTIONS, cut)

    def metadata(self) -> Manifest:
        cut = table_io.files_by_line(self.records.lines, self.rows_per_file)
        return self._write_parsed("metadata", self.records, schema.METADATA, cut)

    def _write_parsed(self, name: str, parsed: Parsed, table: Any, cut: table_io.FileLayout) -> Manifest:
        return self.space.write(name, parsed.usable, table, ["file", "line"], cut, parsed.counters)

    def rejects(self) -> Manifest:
        kinds = {"reviews": self.reviews, "metadata": self.records}
        sources = sorted({file.uri for parsed in kinds.values() for file in parsed.files})
        lines = dict.fromkeys(range(len(sources)), 0)
        for parsed in kinds.values():
            for file, count in parsed.lines.items():
                lines[sources.index(parsed.files[file].uri)] = count
        rows = reduce(DataFrame.unionAll, (_rejected(p, sources) for p in kinds.values()))
        counters = {f"{kind}: {why}": n for kind, p in kinds.items() for why, n in p.bad.items()}
        cut = table_io.files_by_line(lines, self.rows_per_file)
        return self.space.write("rejects", rows, schema.REJECTS, ["file", "line"], cut, counters)

    def sequences(self) -> Manifest:
        kept, config = self.kept, self.space.experiment.sequences
        edition = self.space.experiment.input.edition
        cut = split.time_cut(kept.events, config, edition)
        events, size, held_out = self._without_cold(cut)
        rows = materialize(sequences.sequences(events, kept.catalogue, cut))
        counters: dict[str, Any] = kept.counters | held_out | sequences.split_counters(rows)
        if cut is not None:
            split.check_targets(rows, cut, config, edition)
            counters |= split.cut_counters(cut, edition)
        files = self.space.files_by_id("user", size.users)
        return self.space.write("sequences", rows, schema.SEQUENCES, ["user"], files, counters)

    def _without_cold(self, cut: split.TimeCut | None) -> tuple[DataFrame, EventCounts, dict[str, int]]:
        """The events that sequences are made of, their size, and what was held out of them."""
        kept, share = self.kept, self.space.experiment.sequences.cold_share
        if share == 0:
            return kept.events, kept.size, {}
        events = cold.drop_cold(kept.events, share, cut)
        size = interactions.count_events(events)
        cold.check_not_empty(size, kept.size, share)
        return events, size, cold.counters(events, kept.catalogue, share, size, kept.size)

    def items(self) -> Manifest:
        kept = self.kept
        metadata = self.space.read("metadata", schema.METADATA)
        fields = text_fields(self.space.experiment)
        rows = materialize(items.items(kept.catalogue, metadata, self.training, fields))
        counters = items.counters(rows, metadata, kept.events)
        cut = self.space.files_by_id("item", kept.num_items)
        return self.space.write("items", rows, schema.ITEMS, ["item"], cut, counters)

    @property
    def training(self) -> DataFrame:
        return self.space.read("sequences", schema.SEQUENCES).transform(sequences.only_training_events)

    def cooccurrence(self) -> Manifest:
        name = cooccurrence_name(self.space.experiment)
        uri, graph = self.space.uri(name), self.space.experiment.graph
        version = tables.new_version(uri)
        rows, counters = cooccurrence.write_cooccurrence(
            self.training,
            self.space.manifest("sequences").counters["items"],
            Weighting(graph.distance, graph.max_distance),
            version,
            self.rows_per_file,
        )
        return tables.commit(uri, version, self.space.recipes[name], rows, counters)


def _check_catalogue(space: Workspace) -> None:
    if space.experiment.sequences.catalogue == "full" and not space.inputs.metadata:
        raise InputError(
            'sequences.catalogue = "full" needs input.metadata, which lists no file: the items '
            "that nobody interacted with stand there"
        )


def _rejected(parsed: Parsed, sources: list[str]) -> DataFrame:
    """Rejected lines with their source; `file` becomes the source's place in `sources`."""
    rows = parsed.rows.where(F.col("reason").isNotNull() & (F.col("reason") != amazon.BLANK))
    places = [(n, sources.index(f.uri), f.uri) for n, f in enumerate(parsed.files)]
    named = rows.sparkSession.createDataFrame(places, "file int, place int, source string")
    return rows.join(F.broadcast(named), "file").select(
        F.col("place").alias("file"), "line", "source", "reason", "raw"
    )


def _check_usable(parsed: Parsed, what: str, edition: str) -> None:
    if sum(parsed.reasons.values()) == sum(parsed.lines.values()):
        raise InputError(
            f"{parsed.files[0].uri}: no usable {what} in {parsed.counters['lines']} lines "
            f"({_most_frequent(parsed.reasons)}): is input.edition = {edition!r} right?"
        )


def _most_frequent(reasons: dict[str, int]) -> str:
    return max(reasons, key=lambda reason: reasons[reason])
