"""The published split of an Amazon category as raw files of edition 2018:
`python -m benchmarks.published_split FOLDER OUT`

FOLDER holds the processed files that UniSRec publishes for a category and MISSRec uses too
(github.com/RUCAIBox/UniSRec, dataset/): NAME.train.inter, NAME.valid.inter, NAME.test.inter,
NAME.user2index, NAME.item2index and NAME.text. They have no times. Here the n-th event of a user is
given the n-th day, which keeps the published order.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mdsrec.command import run_command
from mdsrec.errors import InputError

PROG = "benchmarks.published_split"
FIRST_DAY = 1_262_304_000  # 2010-01-01
DAY = 86_400


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROG}", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write to")
    parser.add_argument(
        "--category",
        metavar="NAME",
        default="Industrial_and_Scientific",
        help="name in the files that are written (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    prefix = _prefix(arguments.folder)
    items, users = _raw_ids(prefix, "item2index"), _raw_ids(prefix, "user2index")
    sequences, texts = read_sequences(prefix), _texts(prefix, items)
    arguments.out.mkdir(parents=True, exist_ok=True)
    reviews = (
        {"reviewerID": users[user], "asin": items[item], "unixReviewTime": FIRST_DAY + n * DAY}
        for user, sequence in sequences.items()
        for n, item in enumerate(sequence)
    )
    metadata = ({"asin": asin, "title": texts[asin]} for asin in items.values() if asin in texts)
    num_reviews = _write(arguments.out / f"{arguments.category}_5.json.gz", reviews)
    num_items = _write(arguments.out / f"meta_{arguments.category}.json.gz", metadata)
    print(f"{len(sequences):,} users, {num_reviews:,} interactions, {num_items:,} items with text")


def read_sequences(prefix: str) -> dict[str, list[str]]:
    """Return the items of each user in order, both as the split's own indexes.

    A row of a file holds a user, at most 50 items of the history, and the next item. The rows of
    training go back from the last training event to the second one, whose history is the first.
    """
    sequences: dict[str, list[str]] = {}
    for user, history, item in _rows(f"{prefix}.train.inter"):
        last_first = sequences.setdefault(user, [])
        last_first.append(item)
        if len(history) == 1:
            last_first.append(history[0])
            last_first.reverse()
    for user, history, item in _rows(f"{prefix}.valid.inter"):
        sequences.setdefault(user, history).append(item)
    for user, _, item in _rows(f"{prefix}.test.inter"):
        sequences[user].append(item)
    return sequences


def _rows(path: str) -> Iterator[tuple[str, list[str], str]]:
    for number, line in enumerate(_lines(path)[1:], 2):  # the first line names the columns
        cells = line.split("\t")
        if len(cells) != 3:
            raise InputError(f"{path} line {number}: {len(cells)} columns instead of 3")
        yield cells[0], cells[1].split(), cells[2]


def _prefix(folder: Path) -> str:
    """Return the path of the files in the folder without `.train.inter`."""
    found = sorted(folder.glob("*.train.inter"))
    if len(found) != 1:
        raise InputError(f"{folder}: {len(found)} files *.train.inter instead of one")
    return str(found[0]).removesuffix(".train.inter")


def _raw_ids(prefix: str, kind: str) -> dict[str, str]:
    """Return the raw id of each index."""
    pairs = (line.split("\t") for line in _lines(f"{prefix}.{kind}"))
    return {index: raw for raw, index in pairs}


def _texts(prefix: str, items: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each asin. The file names an item by its asin or by its index."""
    rows = (line.partition("\t") for line in _lines(f"{prefix}.text"))
    return {items.get(item, item): text.strip() for item, _, text in rows}


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _write(path: Path, rows: Iterator[Mapping[str, object]]) -> int:
    """Write JSON lines, compressed without a time, so that equal rows give equal bytes."""
    partial, num_rows = path.with_name(f"{path.name}.partial"), 0
    with partial.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            num_rows += 1
    partial.replace(path)
    return num_rows


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
