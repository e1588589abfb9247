"""Experiments of the measurements on finished tables, and the tables themselves."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from mdsrec.command import positive_int
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError

NEIGHBORS = 10  # H, and all that are stored
USERS, DEGREE, WIDTH = 200_000, 20, 4


class Subject(NamedTuple):
    """An experiment on finished tables of a catalogue."""

    config: Path
    overrides: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """Return the experiment as words of a command line."""
        return [str(self.config), *self.overrides]

    def load(self) -> Experiment:
        return load_experiment(self.config, self.overrides)


def add_arguments(parser: argparse.ArgumentParser, items: list[int], dim: int) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="for tables and results")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="of the experiment")
    parser.add_argument("--items", type=positive_int, nargs="+", default=items)
    parser.add_argument("--users", type=positive_int, default=USERS)
    parser.add_argument("--degree", type=positive_int, default=DEGREE, help="entries of O an item")
    parser.add_argument("--dim", type=positive_int, default=dim, help="D")
    parser.add_argument("--keep", action="store_true", help="keep the tables")


def subject_of(arguments: argparse.Namespace, items: int) -> Subject:
    """Write the configuration and the tables of a catalogue of so many items."""
    folder = Path(arguments.folder).absolute() / f"items-{items}"
    overrides = (f"model.dim={arguments.dim}", *arguments.overrides)
    subject = Subject(folder / "scale.toml", overrides)
    folder.mkdir(parents=True, exist_ok=True)
    subject.config.write_text(tomli_w.dumps(_content(folder)))
    sizes = {"items": items, "users": arguments.users, "degree": arguments.degree, "width": WIDTH}
    options = [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
    _run([sys.executable, "-m", "benchmarks.catalogue", "tables", *subject.words, *options])
    return subject


def _content(folder: Path) -> dict[str, Any]:
    """Return MDSRec under the sampled loss without centers. The input that it names is not read."""
    return {
        "name": "scale",
        "root": str(folder),
        "input": {"edition": "2018", "reviews": [str(folder / "none.json")]},
        "features": {"text": {"vectors": str(folder / "none.parquet")}},
        "graph": {"max_neighbors": NEIGHBORS},
        "model": {
            "inner_dim": 64,
            "num_neighbors": NEIGHBORS,
            "memory": False,
            "interest_centers": False,
        },
        "train": {"loss": "sampled", "num_negatives": 1000, "device": "cpu"},
    }


def _run(command: Sequence[str]) -> None:
    """Run a command in a process of its own, so that its memory is not measured."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise InputError(ended.stderr.strip().rpartition("\n")[2])
    print(ended.stdout.strip().splitlines()[-2], file=sys.stderr, flush=True)
