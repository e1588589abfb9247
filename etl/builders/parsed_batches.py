"""Parsed lines of raw files, kept by the content of the files, so a file is parsed once.

The files that no stored batch holds are parsed in one Spark job and written as a batch, the table
`<root>/dataset/parsed/KIND/KEY` with all lines of its files. `file` is a position in the batch. The
manifest has the hash of each file's content by position, and the settings of the parser.

A batch is a cache: no recipe names it, and a damaged one is parsed again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.builders.workspace import FileCounts, Workspace
from etl.catalogue.parsing import with_outcome
from etl.spark import table_io
from etl.spark.file_checks import check_table
from etl.spark.rows import empty_frame, frame_of_rows
from mdsrec import tables
from mdsrec.errors import InputError
from mdsrec.tables import Manifest, Recipe

log = logging.getLogger("etl")

FOLDER = "parsed"
POSITIONS = pa.schema(dict.fromkeys(("batch", "file", "position"), pa.int32()))


@dataclass(frozen=True)
class LineParser:
    """The parser of one kind of raw files."""

    kind: str
    settings: Mapping[str, Any]  # everything but the file that decides the row of a line
    schema: pa.Schema  # of a row, without OUTCOME
    parse: Callable[[Sequence[int]], DataFrame]  # the files at these positions in the input


@dataclass(frozen=True)
class Batch:
    """A stored batch, and the contents that are read from it."""

    uri: str
    manifest: Manifest
    wanted: frozenset[str]

    @property
    def files(self) -> list[tuple[int, str]]:
        """Return (position in the batch, content) of the wanted contents."""
        inputs = self.manifest.inputs.items()
        return [(int(position), text) for position, text in inputs if text in self.wanted]


def parsed_rows(space: Workspace, parser: LineParser, contents: Sequence[str]) -> DataFrame:
    """Return the parsed lines of all files, which are named by the hashes of their contents.

    Only files that no intact batch holds are parsed. `file` is the position in `contents`.
    """
    folder = f"{space.uri(FOLDER)}/{parser.kind}"
    found = _stored_batches(space, folder, parser, contents)
    absent = frozenset(contents).difference(*(batch.wanted for batch in found))
    positions = [contents.index(text) for text in dict.fromkeys(contents) if text in absent]
    if positions:
        found.append(_parse(folder, parser, positions, [contents[n] for n in positions]))
    num_parsed = sum(text in absent for text in contents)
    space.file_counts[parser.kind] = FileCounts(num_parsed, len(contents) - num_parsed)
    log.info("%s: %d files parsed, %d kept", parser.kind, *space.file_counts[parser.kind])
    return _joined(space, found, with_outcome(parser.schema), contents)


def stored_batches(root: str) -> list[str]:
    """Return the folders of all batches below a root, also of damaged ones."""
    kinds = [f"{tables.table_uri(root, FOLDER)}/{kind}" for kind in ("interactions", "items")]
    return [f"{kind}/{key}" for kind in kinds for key in tables.folders_of(kind)]


def _stored_batches(
    space: Workspace, folder: str, parser: LineParser, contents: Sequence[str]
) -> list[Batch]:
    """Return intact batches of the parser that hold some of the contents, each content once."""
    found: list[Batch] = []
    missing = frozenset(contents)
    for key in tables.folders_of(folder):
        uri = f"{folder}/{key}"
        try:
            manifest = tables.read_manifest(uri)
            if manifest is None or Recipe(parser.settings, manifest.inputs).fingerprint != key:
                continue
            if wanted := missing.intersection(manifest.inputs.values()):
                check_table(space.spark, uri, tables.open_table(uri))
                found.append(Batch(uri, manifest, wanted))
                missing -= wanted
        except InputError as error:
            log.warning("%s: its files are parsed again", error)
            tables.delete_table(uri)
    return found


def _parse(
    folder: str, parser: LineParser, positions: Sequence[int], contents: Sequence[str]
) -> Batch:
    """Parse the files at these positions and store them as a batch."""
    recipe = Recipe(parser.settings, {str(n): text for n, text in enumerate(contents)})
    uri = f"{folder}/{recipe.fingerprint}"
    rows = parser.parse(positions)
    manifest = table_io.write_unordered(rows, uri, with_outcome(parser.schema), recipe)
    return Batch(uri, manifest, frozenset(contents))


def _joined(
    space: Workspace, batches: Sequence[Batch], schema: pa.Schema, contents: Sequence[str]
) -> DataFrame:
    """Return the rows of the batches, with the positions that their files have in the input.

    A content that the input has twice gives its rows twice.
    """
    if not batches:
        return empty_frame(space.spark, schema)
    rows = [
        table_io.read_table(space.spark, batch.uri, schema).withColumn("batch", F.lit(number))
        for number, batch in enumerate(batches)
    ]
    positions = [
        {"batch": number, "file": file, "position": position}
        for number, batch in enumerate(batches)
        for file, content in batch.files
        for position, text in enumerate(contents)
        if text == content
    ]
    named = frame_of_rows(space.spark, positions, POSITIONS)
    return (
        reduce(DataFrame.unionAll, rows)
        .join(F.broadcast(named), ["batch", "file"])
        .withColumn("file", F.col("position"))
        .select(*schema.names)
    )
