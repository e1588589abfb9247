"""Write raw reviews, metadata and vectors of N items, and a configuration that reads them.

The items have EVENTS events on average, long-tailed (see `events.py`). Every item has metadata and,
if --width is not 0, a vector. Lines are put together by numpy and written as they are, or as gzip.
"""

import argparse
import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from benchmarks.catalogue.disk import Writing
from benchmarks.catalogue.events import CHUNK_USERS, LONGEST, Catalogue, ids
from benchmarks.catalogue.raw_lines import ITEM_DIGITS, Bytes, RawLines
from benchmarks.catalogue.vectors import Groups
from mdsrec.arrays import fixed_lists
from mdsrec.command import positive_int
from mdsrec.errors import InputError

EVENTS, WIDTH = 10, 64
FILE_BYTES = 256 << 20
VECTOR_ROWS = 1 << 16  # in a row group
GROUPS_PER_FILE = 16
REVIEWS, METADATA, VECTORS = "reviews", "metadata", "text"  # folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new folder")
    parser.add_argument("--items", type=positive_int, required=True)
    parser.add_argument("--events", type=positive_int, default=EVENTS, help="an item (default: 10)")
    parser.add_argument("--longest", type=positive_int, default=LONGEST, help="most of a user")
    parser.add_argument("--edition", choices=("2014", "2018", "2023"), default="2018")
    parser.add_argument("--text", type=int, default=0, help="bytes of text in a review")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the vectors; 0: none")
    parser.add_argument("--gzip", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside-disk", action="store_true", help="time a plain write as well")


def run(arguments: argparse.Namespace) -> None:
    catalogue = Catalogue(
        arguments.items,
        interactions=arguments.events * arguments.items,
        longest=arguments.longest,
        seed=arguments.seed,
    )
    lines = RawLines(arguments.edition, arguments.text, arguments.seed)
    with Writing(arguments.folder, arguments.beside_disk):
        counts = write_raw(arguments.folder, catalogue, lines, arguments.width, arguments.gzip)
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    print(f"next: mdsrec etl {arguments.folder / 'catalogue.toml'}")


def write_raw(
    folder: Path, catalogue: Catalogue, lines: RawLines, width: int = 0, zipped: bool = False
) -> dict[str, int]:
    """Write the files below a new folder; return the numbers of users, items and reviews."""
    if catalogue.num_items < 100:
        raise InputError(f"--items {catalogue.num_items}: must be at least 100")
    if folder.exists():
        raise InputError(f"{folder}: exists: choose a new folder")
    counts = {"users": 0, "items": catalogue.num_items, "reviews": 0}

    def reviews() -> Iterable[Bytes]:
        for chunk in catalogue.chunks():
            counts["users"] += len(chunk.lengths)
            counts["reviews"] += len(chunk.items)
            yield lines.reviews(chunk)

    blocks = range(0, catalogue.num_items, CHUNK_USERS)
    items = (np.arange(b, min(b + CHUNK_USERS, catalogue.num_items)) for b in blocks)
    try:
        _write_lines(folder / REVIEWS, reviews(), zipped)
        _write_lines(folder / METADATA, map(lines.records, items), zipped)
        if width:
            _write_vectors(folder / VECTORS, catalogue, width)
        content = tomli_w.dumps(configuration(folder, lines.edition, width))
        (folder / "catalogue.toml").write_text(content)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None
    return counts


def configuration(folder: Path, edition: str, width: int) -> dict[str, Any]:
    """Return an experiment on the files: all items of the metadata, no k-core, a small model."""
    vectors = {"text": {"vectors": str(folder.absolute() / VECTORS)}} if width else {}
    return {
        "name": "catalogue",
        "root": str(folder.absolute() / "root"),
        "input": {
            "edition": edition,
            "reviews": [str(folder.absolute() / REVIEWS)],
            "metadata": [str(folder.absolute() / METADATA)],
        },
        "sequences": {"k_core": 1, "catalogue": "full"},
        "features": vectors,
        "model": {"dim": 16, "inner_dim": 16, "interest_centers": False},
        "train": {"loss": "sampled", "num_negatives": 100},
    }


def _write_lines(folder: Path, blocks: Iterable[Bytes], zipped: bool) -> None:
    """Write blocks of lines in files of about FILE_BYTES."""
    folder.mkdir(parents=True)
    file, number, written = None, 0, FILE_BYTES
    for block in blocks:
        if written >= FILE_BYTES:
            if file is not None:
                file.close()
            file, number, written = (
                _create(folder / f"part-{number:05d}.json", zipped),
                number + 1,
                0,
            )
        assert file is not None
        file.write(block.data)
        written += block.nbytes
    if file is not None:
        file.close()


def _create(path: Path, zipped: bool) -> IO[bytes]:
    if zipped:
        return cast(IO[bytes], gzip.open(f"{path}.gz", "wb", 1))
    return path.open("wb", buffering=0)


def _write_vectors(folder: Path, catalogue: Catalogue, width: int) -> None:
    """Write Parquet files with the columns item_id and vector."""
    folder.mkdir()
    groups = Groups.of(catalogue.num_items, width, catalogue.seed)
    schema = pa.schema({"item_id": pa.string(), "vector": pa.list_(pa.float32())})
    for number, start in enumerate(range(0, catalogue.num_items, GROUPS_PER_FILE * VECTOR_ROWS)):
        stop = min(start + GROUPS_PER_FILE * VECTOR_ROWS, catalogue.num_items)
        path = folder / f"part-{number:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
            for first in range(start, stop, VECTOR_ROWS):
                items = np.arange(first, min(first + VECTOR_ROWS, stop))
                vectors = groups.draw(groups.unequal(len(items), first), first)
                columns = [ids("B", items, ITEM_DIGITS), fixed_lists(vectors)]
                file.write_table(pa.table(columns, schema=schema), VECTOR_ROWS)
