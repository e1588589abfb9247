"""A catalogue restricted to the items with vectors:
`python -m benchmarks.restrict REVIEWS METADATA OUT --to VECTORS ...`

Raw files of edition 2018 are copied without the lines about items that lack a vector in one of the
Parquet files. They are JSON lines, compressed or not. Lines are copied unchanged and in order, so
the same files give the same bytes.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from etl.features.vector_columns import id_column
from mdsrec.command import run_command
from mdsrec.errors import InputError
from mdsrec.files import first_line

PROG = "benchmarks.restrict"


def asins_with_vectors(paths: Sequence[Path]) -> frozenset[str]:
    """Return the asins that every one of the files has."""
    return frozenset.intersection(*map(_asins, paths))


def restrict(source: Path, target: Path, asins: frozenset[str]) -> tuple[int, int, set[str]]:
    """Copy the lines of `source` about `asins`; return lines read, lines kept and their asins."""
    num_lines, num_kept, kept = 0, 0, set()
    with open_atomic(target) as file:
        for num_lines, line in enumerate(read_lines(source), 1):
            asin = _asin(line, f"{source} line {num_lines}")
            if asin in asins:
                file.write(line)
                num_kept += 1
                kept.add(asin)
    return num_lines, num_kept, kept


def _asins(path: Path) -> frozenset[str]:
    try:
        key = id_column(str(path), pq.read_schema(path))
        return frozenset(pq.read_table(path, columns=[key])[key].to_pylist())
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: not a Parquet file with a column item_id or asin: {first_line(error)}"
        ) from None


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, compressed (.gz) or not. InputError if it cannot be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from None


def _asin(line: bytes, source: str) -> str:
    try:
        return str(json.loads(line)["asin"])
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{source}: not a JSON object with an asin") from None


@contextmanager
def open_atomic(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file that exists only once it is complete.

    A .gz has no time in its header, so its bytes depend only on its lines.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                    yield file
            else:
                yield raw
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROG}", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("reviews", metavar="REVIEWS", type=Path)
    parser.add_argument("metadata", metavar="METADATA", type=Path)
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="the folder to write to; file names stay the same"
    )
    parser.add_argument(
        "--to",
        metavar="VECTORS",
        type=Path,
        nargs="+",
        required=True,
        help="Parquet files with a column item_id or asin",
    )
    arguments = parser.parse_args(argv)
    sources: list[Path] = [arguments.reviews, arguments.metadata]
    if any((arguments.out / source.name).resolve() == source.resolve() for source in sources):
        raise InputError(
            f"{arguments.out}: is the folder of the files to read: name another folder"
        )
    asins = asins_with_vectors(arguments.to)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(asins):,} asins have a vector in each of {len(arguments.to)} files")
    for source in sources:
        num_lines, num_kept, kept = restrict(source, arguments.out / source.name, asins)
        print(f"{source.name}: {num_kept:,} of {num_lines:,} lines kept, {len(kept):,} items")


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
