"""`python -m benchmarks.evaluation NAME ...`: what exact ranking costs, and that it is exact."""

import sys
from collections.abc import Sequence

from benchmarks import commands
from mdsrec.command import run_command

PROG = "benchmarks.evaluation"
MODULES = {"ranking": "benchmarks.ranking", "exact": "benchmarks.exact"}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
