"""Make faults on purpose and count the answers: `python -m benchmarks.faults NAME FOLDER`.

Each kind of fault prints one table and writes its tries as JSON into FOLDER. The exit code is 1
if a try had a wrong result in silence, a traceback, or repeated a secret.
"""

import sys
from collections.abc import Sequence

from benchmarks import commands
from mdsrec.command import run_command

PROG = "benchmarks.faults"
MODULES: dict[str, str] = {
    "secrets": "benchmarks.faults.secrets",
    "servers": "benchmarks.faults.servers",
}


def main(argv: Sequence[str] | None = None) -> None:
    commands.run_subcommand(PROG, __doc__ or "", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
