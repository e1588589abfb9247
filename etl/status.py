"""Reports on the tables of an experiment: `etl status`, and the summary at the end of a build."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from etl.builders.workspace import FileCounts
from etl.reasons import kept_version, recipe_changes
from etl.recipes import raw_inputs, recipes
from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.files import file_system
from mdsrec.parquet_groups import open_file
from mdsrec.tables import Manifest, Recipe
from mdsrec.text import duration, file_size, text_table

STATUS_COUNTERS = (
    "rejected",
    "users",
    "items_interacted",
    "prefixes",
    "width",
    "items_without",
    "recall",
)
MAX_COUNTERS = 16
SHOWN_REJECTS = 3
MAX_ROW_LENGTH = 100  # characters of a rejected row


class TableState(StrEnum):
    """The states of a table."""

    UP_TO_DATE = "up to date"
    OUTDATED = "outdated"  # made by another recipe
    DAMAGED = "damaged"
    MISSING = "missing"


@dataclass(frozen=True)
class TableStatus:
    """The state of one table; `reason` explains why it is outdated or damaged."""

    name: str
    state: TableState
    reason: str = ""
    manifest: Manifest | None = None
    age: float | None = None  # seconds

    @property
    def size(self) -> int:
        """Bytes of the table's files."""
        return sum(file.bytes for file in self.manifest.files) if self.manifest else 0


@dataclass(frozen=True)
class Build:
    """The tables after a build, why some were built, and how many raw files of each kind were read.

    A table without a reason was kept.
    """

    manifests: dict[str, Manifest] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileCounts] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)  # a former version is current again


def table_statuses(experiment: Experiment) -> list[TableStatus]:
    """Return the status of every table, in an order in which they can be built.

    Nothing is built and Spark does not start.
    """
    return [
        _table_status(name, tables.table_uri(experiment.root, name), recipe)
        for name, recipe in recipes(experiment, raw_inputs(experiment)).items()
    ]


def _table_status(name: str, uri: str, recipe: Recipe) -> TableStatus:
    try:
        manifest = tables.read_manifest(uri)
        if manifest is None:
            return TableStatus(name, TableState.MISSING)
        tables.open_table(uri)
    except InputError as error:
        return TableStatus(name, TableState.DAMAGED, str(error).removeprefix(f"{uri}/"))
    changes = recipe_changes(manifest, recipe)
    changes += kept_version(uri, recipe) if changes else []
    state = TableState.OUTDATED if changes else TableState.UP_TO_DATE
    return TableStatus(name, state, "; ".join(changes), manifest, _age(uri))


def _age(uri: str) -> float | None:
    filesystem, path = file_system(f"{uri}/{tables.MANIFEST}")
    changed = filesystem.get_file_info(path).mtime
    return max(time.time() - changed.timestamp(), 0.0) if changed else None


def status_report(experiment: Experiment, statuses: Sequence[TableStatus]) -> str:
    """Return a line for each table: state, rows, size, age, and its counters or the reason."""
    rows, details = [], []
    for table in statuses:
        manifest = table.manifest
        num_rows = f"{manifest.rows:,}" if manifest else ""
        size = file_size(table.size) if manifest else ""
        age = duration(table.age) if table.age is not None else ""
        rows.append([table.name, table.state, num_rows, size, age])
        details.append(table.reason or (_status_counters(manifest) if manifest else ""))
    num_current = sum(table.state == TableState.UP_TO_DATE for table in statuses)
    total = file_size(sum(table.size for table in statuses))
    rows.append(["total", f"{num_current} of {len(statuses)} up to date", "", total, ""])
    lines = text_table(["table", "state", "rows", "size", "age"], rows, num_left=2)
    return _report(experiment, lines, [*details, ""])


def build_report(experiment: Experiment, build: Build) -> str:
    """Return a line for each table: was it kept or built, and why; its rows and counters.

    It was found if a former version that the same recipe built is current again. The lines at the
    end say what was parsed and encoded.
    """
    rows, details = [], []
    for name, manifest in build.manifests.items():
        reason, counters = build.reasons.get(name), counters_text(manifest.counters)
        state = "kept" if reason is None else "found" if name in build.found else "built"
        rows.append([name, state, f"{manifest.rows:,}"])
        details.append("; ".join(filter(None, [reason, counters])))
    table = text_table(["table", "state", "rows"], rows, num_left=2)
    return "\n".join([_report(experiment, table, details), *_work_done(build)])


def _work_done(build: Build) -> list[str]:
    """Return how many files were parsed and how many contents were encoded in a build."""
    files = [f"{kind} {n.parsed} parsed, {n.kept} kept" for kind, n in build.files.items()]
    vectors = [
        f"{name} {counters['encoded']:,} encoded, {counters['cached']:,} from the cache"
        for name in build.reasons
        if name not in build.found and "encoded" in (counters := build.manifests[name].counters)
    ]
    done = {"files": files, "vectors": vectors}
    return [f"  {kind:8} {'; '.join(parts)}" for kind, parts in done.items() if parts]


def rejects_report(experiment: Experiment, manifest: Manifest) -> list[str]:
    """Return the first rejected rows, and a command that shows all; [] if there are none."""
    uri = tables.table_uri(experiment.root, "rejects")
    try:
        first = _first_rows(uri, manifest)
    except FileNotFoundError:
        return [f"Rejected rows: another job has replaced {uri} meanwhile"]
    if not first:
        return []
    program = f"import pandas; print(pandas.read_parquet({json.dumps(uri)}).to_string())"
    return [
        f"Rejected rows, the first {len(first)} of {manifest.rows:,}:",
        *(f"  {row['source']}, row {row['line']}: {row['reason']}: {_cut(row)}" for row in first),
        f"  all: {shlex.join(['python', '-c', program])}",
    ]


def _first_rows(uri: str, manifest: Manifest) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path, data_file in zip(tables.data_files(uri, manifest), manifest.files, strict=True):
        with open_file(uri, path, data_file.digests) as file:
            batches = file.iter_batches(SHOWN_REJECTS)
            rows += [row for batch in islice(batches, 1) for row in batch.to_pylist()]
        if len(rows) >= SHOWN_REJECTS:
            break
    return rows[:SHOWN_REJECTS]


def _cut(row: Mapping[str, Any]) -> str:
    """Return what a rejected row holds, on one line and not too long."""
    text = " ".join((row["raw"] or "").split())
    return text if len(text) <= MAX_ROW_LENGTH else f"{text[:MAX_ROW_LENGTH]}..."


def undescribed_items(experiment: Experiment, manifest: Manifest) -> list[str]:
    """Return a line about ordered items that the input does not describe; [] if there are none.

    Without a table of items there is nothing to say.
    """
    missing = manifest.counters["items_without_metadata"]
    if not missing or not (experiment.input.names("items") or experiment.input.names("metadata")):
        return []
    ordered = manifest.counters["items_interacted"]
    table = "table of items" if experiment.input.names("items") else "metadata"
    return [
        f"{missing:,} of {ordered:,} ordered items are not in the {table}: they have no title, "
        "text or image"
    ]


def _report(experiment: Experiment, table: str, details: Sequence[str]) -> str:
    """Put a title above a text table, and details at the end of each row."""
    lines = table.splitlines()
    width = max(map(len, lines))
    rows = [
        f"  {line:{width}}  {text}".rstrip()
        for line, text in zip(lines, ["", *details], strict=True)
    ]
    return "\n".join([f"Tables under {experiment.root}/dataset", *rows])


def _status_counters(manifest: Manifest) -> str:
    counters = manifest.counters
    return counters_text({key: counters[key] for key in STATUS_COUNTERS if key in counters})


def counters_text(counters: Mapping[str, Any]) -> str:
    """Return counters as `users 10, items 5`, without zeros; reasons as `missed: 2 x timeout`."""
    shown = [_counter(key, value) for key, value in counters.items() if value]
    more = len(shown) - MAX_COUNTERS
    return ", ".join(shown[:MAX_COUNTERS]) + (f", and {more} more" if more > 0 else "")


def _counter(key: str, value: object) -> str:
    kind, colon, reason = key.partition(": ")
    if colon:
        return f"{kind}: {_number(value)} x {reason}"
    return f"{key.replace('_', ' ')} {_number(value)}"


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)
