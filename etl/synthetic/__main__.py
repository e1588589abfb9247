"""`python -m etl.synthetic FOLDER`: write a small raw catalogue with planted interests."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mdsrec.command import run_command
from mdsrec.errors import InputError


def main(argv: Sequence[str] | None = None) -> None:
    """Write the catalogue and print how much is in it."""
    parser = argparse.ArgumentParser(
        prog="python -m etl.synthetic",
        description="Write a small raw catalogue (edition 2018) with planted interests.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write into")
    parser.add_argument("--users", type=int, default=2000, help="number of users (default: 2000)")
    parser.add_argument("--items", type=int, default=2400, help="number of items (default: 2400)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    arguments = parser.parse_args(argv)
    if arguments.users < 1 or arguments.items < 50 or arguments.seed < 0:
        raise InputError("--users must be 1 or more, --items 50 or more, --seed 0 or more")
    from etl.synthetic.catalogue import write_catalogue

    folder = arguments.folder
    counts = write_catalogue(folder, arguments.users, arguments.items, arguments.seed)
    print(f"Wrote reviews.json.gz, metadata.json.gz, image.parquet and images to {folder}")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    print("next: python -m etl configs/demo.toml (its inputs are in data/demo)")


if __name__ == "__main__":
    sys.exit(run_command("etl.synthetic", main))
