"""`python -m benchmarks.training NAME ...`: what a training step costs, where its time goes,
what the model and its parts are worth, and how SASRec here stands beside RecBole's.
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
    "recbole-speed": "benchmarks.recbole_speed",
    "recbole-metrics": "benchmarks.recbole_metrics",
}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
