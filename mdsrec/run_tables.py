"""The versions of tables that the runs of a root need, by `dataset.json` and `appended.json`."""

import logging
from functools import lru_cache

from pyarrow import fs

from mdsrec.files import file_system, read_json
from mdsrec.run_paths import RunPaths
from mdsrec.tables import READ_ERRORS, folders_of

log = logging.getLogger("mdsrec")

Versions = frozenset[tuple[str, str]]  # table and fingerprint


def is_needed(root: str, table: str, fingerprint: str) -> bool:
    """Return whether a run was trained on this version of a table, or may have been."""
    of_runs = tables_of_runs(root).values()
    return any(needed is None or (table, fingerprint) in needed for needed in of_runs)


def tables_of_runs(root: str) -> dict[str, Versions | None]:
    """Return the versions that each run was trained on, or had items appended for, by its name.

    None means that a file cannot be read.
    """
    found: dict[str, Versions | None] = {}
    for name in folders_of(f"{root}/runs"):
        paths = RunPaths(f"{root}/runs/{name}")
        for file in (paths.dataset, paths.appended):
            filesystem, path = file_system(file)
            info = filesystem.get_file_info(path)
            if info.type == fs.FileType.File:
                found[name] = _both(found.get(name, frozenset()), _stored(file, info.mtime_ns))
    return found


def _both(left: Versions | None, right: Versions | None) -> Versions | None:
    return None if left is None or right is None else left | right


@lru_cache(maxsize=4096)
def _stored(file: str, modified: int | None) -> Versions | None:
    """Return the content of a file of a run. `modified` tells its states apart."""
    try:
        return frozenset(read_json(file).items())
    except READ_ERRORS as error:
        log.warning("%s: all former tables are kept", error)
        return None
