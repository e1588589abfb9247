"""Leftovers of killed builds below the root: versions of no table, and checkpoints of Spark."""

import logging
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pyarrow import fs

from mdsrec import tables
from mdsrec.files import delete_folder, file_system
from mdsrec.text import file_size

log = logging.getLogger("etl")

CHECKPOINTS = ".checkpoints-"


@dataclass(frozen=True)
class Leftover:
    """A folder of no table, and the name of the table that it lies in, "" of checkpoints."""

    uri: str
    table: str
    size: int
    is_old: bool  # so that no build can be writing it


def clean_leftovers(root: str) -> None:
    """Delete what is older than a day, and say what is younger: another build may be writing it."""
    young: list[Leftover] = []
    for leftover in find_leftovers(root):
        if leftover.is_old:
            log.info("deleted what a killed build left a day ago: %s", leftover.uri)
            delete_folder(leftover.uri)
        else:
            young.append(leftover)
    if young:
        log.warning(
            "%d folders (%s) are of no table: another build is writing them, or was killed; they "
            "are deleted after a day; if none runs, delete them now: rm -r %s",
            len(young),
            file_size(sum(leftover.size for leftover in young)),
            shlex.join(leftover.uri for leftover in young),
        )


def find_leftovers(root: str) -> list[Leftover]:
    """Return the folders below the root that are of no table."""
    filesystem, dataset = file_system(f"{root}/dataset")
    infos = filesystem.get_file_info(fs.FileSelector(dataset, recursive=True, allow_not_found=True))
    found = []
    for path, table in _leftovers(root, dataset, infos):
        inside = [info for info in infos if f"{info.path}/".startswith(f"{path}/")]
        uri = f"{root}/dataset/{path.removeprefix(dataset).lstrip('/')}"
        newest = max((info.mtime.timestamp() for info in inside if info.mtime), default=0.0)
        is_old = time.time() - newest > tables.ABANDONED_AFTER
        found.append(Leftover(uri, table, sum(info.size or 0 for info in inside), is_old))
    return found


def _leftovers(root: str, dataset: str, infos: list[fs.FileInfo]) -> Iterator[tuple[str, str]]:
    """Yield the folders of checkpoints, and the versions that no manifest lists; their tables."""
    for info in infos:
        if info.type != fs.FileType.Directory:
            continue
        if info.base_name.startswith(CHECKPOINTS):
            yield info.path, ""
        elif tables.VERSION.fullmatch(info.base_name):
            table = info.path.removeprefix(dataset).lstrip("/").rpartition("/")[0]
            if not _is_listed(info.base_name, f"{root}/dataset/{table}"):
                yield info.path, table


def _is_listed(version: str, uri: str) -> bool:
    """Return whether the table may need a version: also where a manifest cannot be read."""
    try:
        return version in tables.listed_versions(uri)
    except tables.READ_ERRORS:
        return True
