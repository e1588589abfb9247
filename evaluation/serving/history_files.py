"""`recommend --histories FILE`: users who were not in the data, as a table of a run.

The format of the file follows from its name:

    .jsonl    a line {"user_id": "u1", "item_ids": ["B00004", "B00017"]} for each user
    .parquet  columns user_id and item_ids (lists)
    .csv      columns user_id and item_id, separated by , ; | or a tab, a row for each event

Events are listed oldest first.
"""

import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.serving.catalogue import Catalogue
from evaluation.serving.histories import KnownHistories, unknown_text
from mdsrec import files, schema, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError, near_file
from mdsrec.run_paths import RunPaths
from mdsrec.tables import Manifest, Recipe

FORMATS = ".jsonl, .parquet or .csv"
LISTS, EVENTS = ("user_id", "item_ids"), ("user_id", "item_id")
SHOWN_USERS = 3


class History(NamedTuple):
    """A user of the file; `place` names it in errors."""

    place: str
    user_id: str
    item_ids: list[Any]


def write_histories(experiment: Experiment, path: str) -> tuple[Manifest, list[str]]:
    """Write the table `histories` of the run: users of the file with a known item, in its order.

    Returns its manifest, and lines for the screen about what was left out. InputError if the file
    cannot be read, or no user has a known item.
    """
    catalogue, known = Catalogue.read(experiment), KnownHistories()
    users: set[str] = set()
    for history in read_histories(path):
        if history.user_id in users:
            raise InputError(f"--histories {path}, {history.place}: {history.user_id!r} again")
        users.add(history.user_id)
        known.add(history.user_id, history.item_ids, catalogue)
    if not known.keys:
        found = unknown_text(known.unknown_ids) if known.unknown_ids else "there are no item ids"
        raise InputError(f"--histories {path}: no user has a known item: {found}")
    rows = pa.table([range(len(known.keys)), known.keys, known.items], schema=schema.HISTORIES)
    items = tables.open_table(tables.table_uri(experiment.root, "items"))
    content = tables.fingerprint([known.keys, [items.tolist() for items in known.items]])
    recipe = Recipe({"content": content}, {"items": items.fingerprint})
    batches = rows.combine_chunks().to_batches()
    uri = RunPaths.of(experiment).histories
    manifest = tables.write_table(uri, batches, schema.HISTORIES, recipe)
    return manifest, _left_out(known)


def _left_out(known: KnownHistories) -> list[str]:
    lines = [unknown_text(known.unknown_ids)] if known.unknown_ids else []
    if empty := known.empty_histories:
        first = ", ".join(map(repr, empty[:SHOWN_USERS])) + ", ..." * (len(empty) > SHOWN_USERS)
        total = len(known.keys) + len(empty)
        lines.append(f"{len(empty):,} of {total:,} users have no known item: {first}")
    return lines


def read_histories(path: str) -> Iterator[History]:
    """Yield the users of a file. InputError names the place of a mistake."""
    readers = {".jsonl": _json_lines, ".parquet": _parquet, ".csv": _csv}
    suffix = next((suffix for suffix in readers if path.endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"--histories {path}: name a file {FORMATS}")
    try:
        content = files.read_bytes(path)
        if content is None:
            raise InputError(f"--histories {path}: no such file{near_file(path)}")
        yield from readers[suffix](content)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise InputError(f"--histories {path}: {files.first_line(error)}") from None


def _json_lines(content: bytes) -> Iterator[History]:
    for number, line in enumerate(content.decode("utf-8-sig").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
                yield _history(f"line {number}", *(row[name] for name in LISTS))
            except KeyError:
                raise ValueError(
                    f"line {number}: expected the keys {' and '.join(LISTS)}; found keys: "
                    f"{', '.join(row)}"
                ) from None
            except (ValueError, TypeError) as error:
                expected = '{"user_id": "u1", "item_ids": ["B00004"]}'
                raise ValueError(f"line {number}: expected {expected} ({error})") from None


def _parquet(content: bytes) -> Iterator[History]:
    rows = pq.read_table(io.BytesIO(content))
    _check_columns(rows.column_names, LISTS)
    for number, row in enumerate(rows.select(LISTS).to_pylist(), 1):
        yield _history(f"row {number}", row["user_id"], row["item_ids"])


def _csv(content: bytes) -> Iterator[History]:
    text = content.decode("utf-8-sig")
    separators = files.likely_separators(text)
    if len(separators) > 1:
        found = " or ".join(map(repr, separators))
        raise ValueError(f"its columns may be separated by {found}: write a comma")
    rows = pd.read_csv(io.StringIO(text), sep=separators[0], dtype=str, keep_default_na=False)
    _check_columns(list(rows.columns), EVENTS)
    for user_id, events in rows.groupby("user_id", sort=False):
        yield _history(f"row {events.index[0] + 2}", user_id, events["item_id"].tolist())


def _check_columns(found: list[str], expected: tuple[str, ...]) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(
            f"no column {missing[0]}: expected {' and '.join(expected)}, found {found}"
        )


def _history(place: str, user_id: Any, item_ids: Any) -> History:
    if user_id is None or user_id == "":
        raise ValueError(f"{place}: no user_id")
    if not isinstance(item_ids, list):
        raise ValueError(f"{place}: the items of {user_id!r} are {item_ids!r}, not a list")
    return History(place, str(user_id), item_ids)
