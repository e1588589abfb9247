"""`python -m benchmarks.restrict REVIEWS METADATA OUT --to VECTORS ...`: a catalogue's items alone
that have a vector in every named Parquet file.

Raw files are of edition 2018: JSON lines, compressed or not. Lines are kept as they are, in their
order, so the same files give the same bytes.
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

from mdsrec.command import run_command
from mdsrec.errors import InputError
from mdsrec.files import first_line

PROG = "benchmarks.restrict"


def with_vectors(paths: Sequence[Path]) -> frozenset[str]:
    """The asins that stand in every one of the files."""
    return frozenset.intersection(*map(_asins, paths))


def restrict(source: Path, target: Path, asins: frozenset[str]) -> tuple[int, int, set[str]]:
    """Write the lines of `source` about `asins` -> lines read, lines kept, asins met."""
    lines, kept, met = 0, 0, set()
    with _written(target) as file:
        for lines, line in enumerate(_lines(source), 1):
            asin = _asin(line, f"{source} line {lines}")
            if asin in asins:
                file.write(line)
                kept += 1
                met.add(asin)
    return lines, kept, met


def _asins(path: Path) -> frozenset[str]:
    try:
        return frozenset(pq.read_table(path, columns=["asin"])["asin"].to_pylist())
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: no Parquet with a column asin: {first_line(error)}") from None


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from None


def _asin(line: bytes, place: str) -> str:
    try:
        return str(json.loads(line)["asin"])
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{place}: no JSON object with an asin") from None


@contextmanager
def _written(path: Path) -> Iterator[BufferedIOBase]:
    """A file that is whole or not there; a .gz holds no time, so its bytes are its lines' alone."""
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
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder; names stay")
    parser.add_argument("--to", metavar="VECTORS", type=Path, nargs="+", required=True)
    arguments = parser.parse_args(argv)
    sources: list[Path] = [arguments.reviews, arguments.metadata]
    if any((arguments.out / source.name).resolve() == source.resolve() for source in sources):
        raise InputError(f"{arguments.out}: holds the files to read: name another folder")
    asins = with_vectors(arguments.to)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(asins):,} asins have a vector in each of {len(arguments.to)} files")
    for source in sources:
        lines, kept, met = restrict(source, arguments.out / source.name, asins)
        print(f"{source.name}: {kept:,} of {lines:,} lines kept, {len(met):,} items")


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
