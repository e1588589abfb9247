"""`python -m benchmarks.training NAME ...`: what a training step costs, where its time goes,
what the model and its parts are worth, and how SASRec here stands beside RecBole's.
"""

import sys
from collections.abc import Sequence

from benchmarks import commands
from mdsrec.command import run_command

PROG = "benchmarks.training"
MODULES = {
    "forms": "benchmarks.training.forms",
    "workers": "benchmarks.training.workers",
    "ablations": "benchmarks.training.ablations",
    "sampling": "benchmarks.training.sampling",
    "centers": "benchmarks.training.centers",
    "recbole-speed": "benchmarks.recbole.speed",
    "recbole-metrics": "benchmarks.recbole.metrics",
}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
