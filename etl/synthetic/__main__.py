"""`python -m etl.synthetic [FOLDER]`: write a small raw catalogue with planted interests."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mdsrec.command import path, run_command, spelled, stage_parser
from mdsrec.command.shipped import copy_shipped
from mdsrec.config.loading import to_overrides
from mdsrec.errors import InputError

DEMO_FOLDER = "data/demo"  # the inputs of configs/demo.toml


def main(argv: Sequence[str] | None = None) -> None:
    """Write the catalogue and print how much is in it."""
    parser = stage_parser(
        "etl.synthetic", "Write a small raw catalogue (edition 2018) with planted interests."
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        type=path,
        default=path(DEMO_FOLDER),
        help=f"folder to write into (default: {DEMO_FOLDER})",
    )
    parser.add_argument("--users", type=int, default=2000, help="number of users (default: 2000)")
    parser.add_argument("--items", type=int, default=2400, help="number of items (default: 2400)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    arguments = parser.parse_args(argv)
    if arguments.users < 1 or arguments.items < 50 or arguments.seed < 0:
        raise InputError("--users must be 1 or more, --items 50 or more, --seed 0 or more")
    folder = arguments.folder
    if "://" in folder:
        raise InputError(f"{folder}: a URI: give a local folder")
    copy_shipped("configs", Path("configs"), only="demo.toml")
    from etl.synthetic.catalogue import write_catalogue

    counts = write_catalogue(Path(folder), arguments.users, arguments.items, arguments.seed)
    print(f"Wrote reviews.json.gz, metadata.json.gz, image.parquet and images to {folder}")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    print(f"next: {next_command(folder)}")


def next_command(folder: str) -> str:
    """Return the shell line that builds the tables of the catalogue in `folder`."""
    inputs = {
        "input.reviews": [f"{folder}/reviews.json.gz"],
        "input.metadata": [f"{folder}/metadata.json.gz"],
        "features.image.vectors": f"{folder}/image.parquet",
        "eval.pictures": f"{folder}/images",
    }
    overrides = to_overrides(inputs) if folder != path(DEMO_FOLDER) else ()
    return shlex.join([*spelled("etl"), "configs/demo.toml", *overrides])


if __name__ == "__main__":
    sys.exit(run_command("etl.synthetic", main))
