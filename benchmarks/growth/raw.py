"""Raw files of edition 2018 made from others: the first events of each user, and other item ids."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import floor
from pathlib import Path
from typing import Any

from benchmarks.restrict import open_atomic, read_lines
from etl.catalogue import amazon
from mdsrec.config import Experiment
from mdsrec.errors import InputError

EDITION = "2018"
USER, ASIN, TIME = (names[EDITION] for names in (amazon.USER, amazon.ASIN, amazon.TIME))

Row = Mapping[str, Any]


def rows_of(paths: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of raw files of JSON lines."""
    for path in paths:
        for number, line in enumerate(read_lines(Path(path)), 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise InputError(f"{path} line {number}: not JSON") from None


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, compressed; the file exists once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path) as file:
        for row in rows:
            file.write(json.dumps(row).encode() + b"\n")


def first_events(rows: Iterable[Row], share: float) -> list[Row]:
    """Return the first share of each user's events by time, rounded down, in the order of `rows`.

    Events of one time are in the order of `rows`.
    """
    rows = list(rows)
    totals = Counter(row[USER] for row in rows)
    taken: Counter[str] = Counter()
    kept = set()
    for place in sorted(range(len(rows)), key=lambda place: rows[place][TIME]):
        user = rows[place][USER]
        if taken[user] < floor(share * totals[user]):
            taken[user] += 1
            kept.add(place)
    return [row for place, row in enumerate(rows) if place in kept]


def with_suffix(rows: Iterable[Row], suffix: str) -> Iterator[Row]:
    """Yield the rows with a suffix on the ids of the items, which decides other hashes of them."""
    for row in rows:
        yield {**row, ASIN: f"{row[ASIN]}{suffix}"}


def raw_files(experiment: Experiment) -> tuple[list[str], list[str]]:
    """Return the files of reviews and metadata. InputError for editions other than EDITION."""
    given = experiment.input
    if given.edition != EDITION:
        raise InputError(
            f"input.edition is {given.edition!r}: this benchmark reads edition {EDITION}"
        )
    return list(given.reviews), list(given.metadata)
