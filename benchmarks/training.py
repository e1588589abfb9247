"""`python -m benchmarks.training NAME ...`: what a training step costs, where its time goes,
and what the model and its parts are worth.
"""

import sys
from collections.abc import Sequence

from benchmarks import commands
from mdsrec.command import run_command

PROG = "benchmarks.training"
MODULES = {
    "forms": "benchmarks.forms",
    "workers": "benchmarks.workers",
    "ablations": "benchmarks.ablations",
    "sampling": "benchmarks.sampling",
    "centers": "benchmarks.centers",
}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
