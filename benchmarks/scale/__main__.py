"""Measure how a stage grows with the catalogue: `python -m benchmarks.scale NAME FOLDER`.

Each measurement prints one table and writes its numbers as JSON into FOLDER.
"""

import sys
from collections.abc import Sequence

from benchmarks import commands
from mdsrec.command import run_command

PROG = "benchmarks.scale"
MODULES = {
    "etl": "benchmarks.scale.etl",
    "load": "benchmarks.scale.load",
    "step": "benchmarks.scale.step",
    "train": "benchmarks.scale.train",
    "owned": "benchmarks.scale.owned",
}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run_subcommand(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
