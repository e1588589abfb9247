"""Speed of the ETL, compared with other ways to do its work: `python -m benchmarks.etl NAME ...`"""

import sys
from collections.abc import Sequence

from benchmarks import commands
from mdsrec.command import run_command

PROG = "benchmarks.etl"
MODULES = {
    "cooccurrence": "benchmarks.etl.cooccurrence",
    "neighbors": "benchmarks.etl.neighbors",
    "encoders": "benchmarks.etl.encoders",
}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run_subcommand(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
