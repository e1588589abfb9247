"""`python -m etl clean`: delete what no build and no run that is kept needs any more.

These are former versions of tables, parsed batches of files that are not in the input, and what
killed builds left. Of each the manifest is deleted first: a clean that is killed leaves folders
without one, which the next clean deletes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from pyarrow import fs

from etl.builders.leftovers import find_leftovers
from etl.builders.parsed_batches import FOLDER, stored_batches
from etl.builders.workspace import Workspace
from mdsrec import tables
from mdsrec.command.heartbeat import heartbeat
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.files import delete_folder, file_system
from mdsrec.jobs.lease import Lease, check_leases, hold
from mdsrec.jobs.promises import FORMER, SHOWN
from mdsrec.run_tables import tables_of_runs
from mdsrec.text import file_size, text_table


@dataclass(frozen=True)
class Deletion:
    """Something to delete. Of a former version, the table and its fingerprint."""

    what: str
    size: int  # bytes
    delete: Callable[[], None]
    former: tuple[str, str] | None = None


def clean(experiment: Experiment, keep: Sequence[str] = (), dry_run: bool = False) -> str:
    """Delete what is not needed -> a report. `keep` are runs whose tables stay.

    With `dry_run` only the report is made. Waits for the ETLs that write tables of the root.
    InputError if a run does not exist, or if its list of tables cannot be read.
    """
    root = experiment.root
    needed = _needed_by(root, keep)
    space = Workspace(experiment)
    names = sorted({*space.recipes, *_stored_tables(root)})
    with nullcontext() if dry_run else _lease(root, names):
        found = [*_former(root, names, needed), *_batches(space), *_leftovers(root, names)]
        for deletion in () if dry_run else found:
            check_leases()
            deletion.delete()
    return _report(root, found, dry_run)


def _lease(root: str, names: Sequence[str]) -> AbstractContextManager[None]:
    heartbeat.begin("waiting for the leases of the tables")
    files = [f"{tables.table_uri(root, name)}.writer" for name in (*names, FOLDER)]
    return hold(Lease(files), f"writing tables of {root}/dataset", waits=True)


def _needed_by(root: str, runs: Sequence[str]) -> set[tuple[str, str]]:
    """Return (table, fingerprint) of every version that one of the runs needs."""
    known, found = tables_of_runs(root), set[tuple[str, str]]()
    for run in runs:
        name = run.rstrip("/").rpartition("/")[2]
        if name not in known:
            listed = ", ".join(known) or "none"
            raise InputError(f"--keep {run}: no such run below {root}/runs; there are {listed}")
        if (of_run := known[name]) is None:
            raise InputError(f"--keep {run}: its list of tables cannot be read: restore it")
        found |= of_run
    return found


def _stored_tables(root: str) -> Iterator[str]:
    """Yield the name of every table that has a manifest, current or former."""
    filesystem, dataset = file_system(f"{root}/dataset")
    infos = filesystem.get_file_info(fs.FileSelector(dataset, recursive=True, allow_not_found=True))
    for info in infos:
        table = info.path.removeprefix(dataset).lstrip("/").rpartition("/")[0]
        if info.base_name in (tables.MANIFEST, FORMER) and not table.startswith(f"{FOLDER}/"):
            yield table


def _former(root: str, names: Sequence[str], needed: set[tuple[str, str]]) -> Iterator[Deletion]:
    for name in names:
        uri = tables.table_uri(root, name)
        for fingerprint in tables.former_fingerprints(uri):
            if (name, fingerprint) not in needed:
                what = f"former {name}, {fingerprint[-SHOWN:]}"
                delete = partial(tables.delete_former, uri, fingerprint)
                size = _former_size(uri, fingerprint)
                yield Deletion(what, size, delete, (name, fingerprint))


def _former_size(uri: str, fingerprint: str) -> int:
    """Return the bytes of a former version; 0 if its manifest is damaged."""
    try:
        manifest = tables.stored_manifest(uri, f"{FORMER}/{fingerprint}.json")
    except InputError:
        return 0
    return sum(file.bytes for file in manifest.files) if manifest else 0


def _batches(space: Workspace) -> Iterator[Deletion]:
    """Yield the batches without a file of the input, and those that are damaged."""
    contents = {*space.contents("interactions"), *space.contents("metadata")}
    for uri in stored_batches(space.experiment.root):
        try:
            manifest = tables.stored_manifest(uri)
        except InputError:
            manifest = None
        files = [text.split(" ")[0] for text in manifest.inputs.values()] if manifest else []
        if manifest is None or not contents.intersection(files):
            kind, key = uri.rsplit("/", 2)[1:]
            what = f"parsed {kind} of {len(files)} files, {key[-SHOWN:]}"
            size = sum(file.bytes for file in manifest.files) if manifest else 0
            yield Deletion(what, size, partial(tables.delete_table, uri))


def _leftovers(root: str, names: Sequence[str]) -> Iterator[Deletion]:
    """Yield leftovers that no build can be writing: of leased tables, or older than a day."""
    for leftover in find_leftovers(root):
        if not leftover.table.startswith(f"{FOLDER}/") and (
            leftover.is_old or leftover.table in names
        ):
            what = f"leftover {leftover.uri.removeprefix(f'{root}/dataset/')}"
            yield Deletion(what, leftover.size, partial(delete_folder, leftover.uri))


def _report(root: str, found: Sequence[Deletion], dry_run: bool) -> str:
    if not found:
        return f"{root}/dataset: nothing to delete"
    rows = [[deletion.what, file_size(deletion.size)] for deletion in found]
    rows.append(["total", file_size(sum(deletion.size for deletion in found))])
    title = f"{'To delete' if dry_run else 'Deleted'} below {root}/dataset"
    lines = text_table([title, "size"], rows).splitlines()
    gone = {deletion.former for deletion in found if deletion.former}
    lines += _lost_runs(root, gone, dry_run)
    return "\n".join(lines)


def _lost_runs(root: str, gone: set[tuple[str, str]], dry_run: bool) -> Iterator[str]:
    """Yield a line for each run that needs a version that is gone."""
    for run, of_run in tables_of_runs(root).items():
        if lost := sorted(name for name, text in of_run or () if (name, text) in gone):
            when = "could" if dry_run else "can"
            yield f"run {run} {when} no longer be evaluated: its {', '.join(lost)}"
