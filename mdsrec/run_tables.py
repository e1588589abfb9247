"""The versions of tables that the runs of a root were trained on, by their `dataset.json`."""

import logging
from functools import lru_cache

from pyarrow import fs

from mdsrec.files import file_system, read_json
from mdsrec.run_paths import RunPaths
from mdsrec.tables import READ_ERRORS, folders_of

log = logging.getLogger("mdsrec")


def is_needed(root: str, table: str, fingerprint: str) -> bool:
    """Return whether a run was trained on this version of a table, or may have been."""
    of_runs = tables_of_runs(root).values()
    return any(needed is None or needed.get(table) == fingerprint for needed in of_runs)


def tables_of_runs(root: str) -> dict[str, dict[str, str] | None]:
    """Return the fingerprints of the tables of each run, by the run and the table.

    None stands for a file that cannot be read.
    """
    found: dict[str, dict[str, str] | None] = {}
    for name in folders_of(f"{root}/runs"):
        file = RunPaths(f"{root}/runs/{name}").dataset
        filesystem, path = file_system(file)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File:
            found[name] = _stored(file, info.mtime_ns)
    return found


@lru_cache(maxsize=4096)
def _stored(file: str, modified: int | None) -> dict[str, str] | None:
    """Return the content of a `dataset.json`. `modified` tells its states apart."""
    try:
        return read_json(file)
    except READ_ERRORS as error:
        log.warning("%s: all former tables are kept", error)
        return None
