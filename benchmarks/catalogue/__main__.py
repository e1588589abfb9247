"""Write a catalogue of any size: `python -m benchmarks.catalogue raw DIR`, or `tables CONFIG`."""

import sys
from collections.abc import Sequence

from benchmarks import commands
from mdsrec.command import run_command

PROG = "benchmarks.catalogue"
MODULES = {
    "raw": "benchmarks.catalogue.raw",
    "tables": "benchmarks.catalogue.tables",
}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run_subcommand(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
