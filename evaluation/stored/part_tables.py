"""A table written by one process in several files."""

from collections.abc import Iterable, Iterator
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

from mdsrec import files, tables
from mdsrec.tables import Manifest, Recipe

PART_ROWS = 1 << 24


def write_parts(
    uri: str, batches: Iterable[pa.RecordBatch], table_schema: pa.Schema, recipe: Recipe
) -> Manifest:
    """Write batches as the table at `uri`. A file ends with the batch that fills PART_ROWS."""
    version = tables.new_version(uri)
    filesystem, path = files.file_system(version)
    filesystem.create_dir(path, recursive=True)
    waiting, rows = iter(batches), 0
    for number, first in enumerate(waiting):
        name = f"{path}/part-{number:05d}.parquet"
        with pq.ParquetWriter(
            name, table_schema, filesystem=filesystem, compression="zstd"
        ) as writer:
            for batch in _part(first, waiting):
                writer.write_batch(batch)
                rows += batch.num_rows
    return tables.commit(uri, version, recipe, rows)


def _part(first: pa.RecordBatch, others: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the first batch and those of the others that belong to the same file."""
    rows = 0
    for batch in chain([first], others):
        yield batch
        rows += batch.num_rows
        if rows >= PART_ROWS:
            return
