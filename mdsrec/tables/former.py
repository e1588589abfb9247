"""Former versions of tables that a run was trained on: they stay readable by their fingerprint.

The manifest of one is `<table>/_manifests/FINGERPRINT.json`. It is written before the manifest that
takes its place, and a version folder is deleted only once no manifest lists it. So a job that is
killed between any two steps leaves every version readable, or a folder that the next ETL deletes.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pyarrow import fs

from mdsrec.errors import InputError
from mdsrec.files import delete_file, delete_folder, file_system, read_json, write_json
from mdsrec.jobs import promises
from mdsrec.jobs.lease import check_leases
from mdsrec.jobs.promises import FORMER, former_manifest
from mdsrec.tables.manifest import MANIFEST, READ_ERRORS, Manifest, Recipe, stored_manifest
from mdsrec.tables.reading import damage
from mdsrec.tables.versions import is_abandoned, mark_committed, versions

Needed = Callable[[str], bool]
"""Returns whether a run needs the version of a table with this fingerprint."""


def needed_by_none(fingerprint: str) -> bool:
    """Return False: the former version is deleted."""
    return False


def former_fingerprints(uri: str) -> list[str]:
    """Return the fingerprints of the kept former versions of a table."""
    filesystem, path = file_system(f"{uri}/{FORMER}")
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = sorted(info.base_name for info in found)
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def version_of(uri: str, fingerprint: str) -> Manifest | None:
    """Return the manifest of the version with this fingerprint, current or former, if it exists."""
    current = stored_manifest(uri)
    if current is not None and current.fingerprint == fingerprint:
        return current
    return stored_manifest(uri, f"{FORMER}/{fingerprint}.json")


def replace_manifest(uri: str, manifest: Manifest, needed: Needed) -> None:
    """Make a manifest that of the table, and delete the version before it unless it is needed."""
    before = _content(f"{uri}/{MANIFEST}")
    replaced = before.get("fingerprint", manifest.fingerprint)
    if replaced != manifest.fingerprint and needed(replaced):
        write_json(former_manifest(uri, replaced), before)
    kept = former_manifest(uri, manifest.fingerprint)
    candidates = _versions_in(before) | _versions_in(_content(kept))
    write_json(f"{uri}/{MANIFEST}", asdict(manifest))
    for version in {file.path.split("/", 1)[0] for file in manifest.files}:
        mark_committed(f"{uri}/{version}")
    delete_file(kept)
    _delete_unlisted(uri, candidates)


def restore(uri: str, recipe: Recipe, needed: Needed) -> Manifest | None:
    """Make the former version that `recipe` built the table again; None if none was kept intact."""
    try:
        manifest = stored_manifest(uri, f"{FORMER}/{recipe.fingerprint}.json")
    except InputError:
        return None
    if manifest is None or damage(uri, manifest) is not None:
        return None
    check_leases()
    promises.check_opened()
    replace_manifest(uri, manifest, needed)
    return manifest


def delete_former(uri: str, fingerprint: str) -> None:
    """Delete a former version: its manifest first, so that a kill leaves none without its files."""
    file = former_manifest(uri, fingerprint)
    candidates = _versions_in(_content(file))
    delete_file(file)
    _delete_unlisted(uri, candidates)


def listed_versions(uri: str) -> set[str]:
    """Return the version folders that a manifest of the table lists, also a former one.

    One of READ_ERRORS if a manifest cannot be read.
    """
    files = [f"{uri}/{MANIFEST}", *(former_manifest(uri, f) for f in former_fingerprints(uri))]
    return {version for file in files for version in _versions_in(read_json(file))}


def _content(file: str) -> dict[str, Any]:
    """Return the content of a manifest; {} if it is absent or damaged."""
    try:
        return read_json(file)
    except READ_ERRORS:
        return {}


def _versions_in(manifest: dict[str, Any]) -> set[str]:
    return {file["path"].split("/", 1)[0] for file in manifest.get("files", [])}


def _delete_unlisted(uri: str, candidates: set[str]) -> None:
    """Delete the version folders of no manifest that are `candidates` or older than a day."""
    try:
        listed = listed_versions(uri)
    except READ_ERRORS:  # then nobody knows what is needed
        return
    for name in versions(uri) - listed:
        if name in candidates or is_abandoned(f"{uri}/{name}"):
            delete_folder(f"{uri}/{name}")
