"""Parquet tables below one root URI (local, s3://, gs://, hdfs://), committed atomically.

A table is a folder of Parquet files with a `_manifest.json` that lists them. A writer puts its
files into a new version folder and replaces the manifest last, in one step. Therefore a table
without a manifest does not exist, a killed writer leaves the old table intact, and readers open
only listed files.
"""

from mdsrec.tables.former import (
    Needed,
    delete_former,
    former_fingerprints,
    listed_versions,
    needed_by_none,
    restore,
    version_of,
)
from mdsrec.tables.manifest import (
    MANIFEST,
    READ_ERRORS,
    DataFile,
    Manifest,
    OtherVersionError,
    Recipe,
    fingerprint,
    read_manifest,
    stored_manifest,
    table_uri,
)
from mdsrec.tables.reading import (
    ETL_FIRST,
    data_files,
    find_table,
    open_table,
    read_table,
    stored_groups,
    stream_table,
)
from mdsrec.tables.versions import (
    ABANDONED_AFTER,
    VERSION,
    delete_table,
    discard_uncommitted,
    folders_of,
    new_version,
)
from mdsrec.tables.writing import FileDigests, commit, write_table

__all__ = [
    "ABANDONED_AFTER",
    "ETL_FIRST",
    "MANIFEST",
    "READ_ERRORS",
    "VERSION",
    "DataFile",
    "FileDigests",
    "Manifest",
    "Needed",
    "OtherVersionError",
    "Recipe",
    "commit",
    "data_files",
    "delete_former",
    "delete_table",
    "discard_uncommitted",
    "find_table",
    "fingerprint",
    "folders_of",
    "former_fingerprints",
    "listed_versions",
    "needed_by_none",
    "new_version",
    "open_table",
    "read_manifest",
    "read_table",
    "restore",
    "stored_groups",
    "stored_manifest",
    "stream_table",
    "table_uri",
    "version_of",
    "write_table",
]
