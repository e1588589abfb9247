"""Speed of training, the value of the parts of the model, and the SASRec of other libraries:
`python -m benchmarks.training NAME ...`
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
    "peers": "benchmarks.peers.command",
}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run_subcommand(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
