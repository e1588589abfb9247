"""The commit of a table: its new files take the place of the old ones in one step."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mdsrec import parquet_groups
from mdsrec.errors import InputError
from mdsrec.files import file_system
from mdsrec.jobs import promises
from mdsrec.jobs.lease import check_leases
from mdsrec.tables.former import Needed, needed_by_none, replace_manifest
from mdsrec.tables.manifest import DataFile, Manifest, Recipe
from mdsrec.tables.versions import new_version

FileDigests = Callable[[Sequence[str], fs.FileSystem], list[str]]
"""Returns the digests of the blocks of each file, from their paths and file system."""


def commit(
    uri: str,
    version: str,
    recipe: Recipe,
    expected_rows: int,
    counters: Mapping[str, Any] | None = None,
    digest_files: FileDigests = parquet_groups.digest_files,
    needed: Needed = needed_by_none,
) -> Manifest:
    """Make the Parquet files in the folder `version` the table at `uri`.

    The old files are deleted, unless a run needs them. `digest_files` reads the files for the
    digests of their blocks. InputError if they do not have `expected_rows` rows, as when nodes do
    not share the root, if a table that this job reads was replaced, or if another job took over its
    lease.
    """
    filesystem, path = file_system(uri)
    found = filesystem.get_file_info(fs.FileSelector(file_system(version)[1], recursive=True))
    found = sorted((i for i in found if i.path.endswith(".parquet")), key=lambda i: i.path)
    footers = parquet_groups.read_footers([info.path for info in found], filesystem)
    filled = [(info, groups) for info, groups in zip(found, footers, strict=True) if groups]
    rows = sum(group.rows for _, groups in filled for group in groups)
    if rows != expected_rows:
        raise InputError(
            f"{uri}: {expected_rows} rows were written, {rows} were found: "
            "put the root on storage that all nodes share"
        )
    digests = digest_files([info.path for info, _ in filled], filesystem)
    files = [
        DataFile(info.path.removeprefix(path + "/"), sum(g.rows for g in groups), info.size, groups)
        for info, groups in filled
    ]
    manifest = Manifest(
        fingerprint=recipe.fingerprint,
        rows=rows,
        files=tuple(replace(f, digests=text) for f, text in zip(files, digests, strict=True)),
        inputs=dict(recipe.inputs),
        settings=dict(recipe.settings),
        counters=dict(counters or {}),
    )
    check_leases()
    promises.check_opened()
    replace_manifest(uri, manifest, needed)
    return manifest


def write_table(
    uri: str,
    batches: Iterable[pa.RecordBatch],
    table_schema: pa.Schema,
    recipe: Recipe,
    counters: Mapping[str, Any] | None = None,
    needed: Needed = needed_by_none,
) -> Manifest:
    """Stream `batches` into one zstd Parquet file and commit it as the table at `uri`."""
    version = new_version(uri)
    filesystem, path = file_system(version)
    filesystem.create_dir(path, recursive=True)
    rows = 0
    with pq.ParquetWriter(
        f"{path}/part-00000.parquet", table_schema, filesystem=filesystem, compression="zstd"
    ) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return commit(uri, version, recipe, rows, counters, needed=needed)
