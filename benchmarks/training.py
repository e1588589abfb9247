"""`python -m benchmarks.training NAME ...`: what a training step costs, and where its time goes."""

import sys
from collections.abc import Sequence

from benchmarks import commands
from mdsrec.command import run_command

PROG = "benchmarks.training"
MODULES = {"forms": "benchmarks.forms", "workers": "benchmarks.workers"}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
