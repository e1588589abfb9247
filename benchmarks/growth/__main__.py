"""Data that grows: a warm start, appended items, and a start from another category:
`python -m benchmarks.growth NAME CONFIG ...`
"""

import sys
from collections.abc import Sequence

from benchmarks import commands
from mdsrec.command import run_command

PROG = "benchmarks.growth"
MODULES = {
    "months": "benchmarks.growth.months",
    "cold": "benchmarks.growth.cold",
    "transfer": "benchmarks.growth.transfer",
}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run_subcommand(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
