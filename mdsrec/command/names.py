"""Names of the commands: `mdsrec train` and `python -m training` are the same."""

import sys
from pathlib import Path
from typing import NamedTuple

CONSOLE = "mdsrec"


class SubCommand(NamedTuple):
    """A sub-command of `mdsrec`: the words after `python -m`, and a line for the help."""

    module: str
    does: str


SUB_COMMANDS = {  # in the order of a user's work
    "demo": SubCommand("etl.synthetic", "write a small raw catalogue to try things out"),
    "files": SubCommand("mdsrec.command.shipped", "copy the configurations or cluster files here"),
    "inspect": SubCommand("etl inspect", "show your own files, and propose a section [input]"),
    "etl": SubCommand("etl", "build tables from raw files"),
    "status": SubCommand("etl status", "show which tables are up to date"),
    "clean": SubCommand("etl clean", "delete former versions of tables that no run needs"),
    "train": SubCommand("training", "train a model on the tables"),
    "evaluate": SubCommand("evaluation", "rank the held-out events and write a report"),
    "append": SubCommand("evaluation append", "give rows to items that a run was not trained on"),
    "run": SubCommand("cluster run", "etl, train and evaluate in turn"),
    "compare": SubCommand("evaluation compare", "compare evaluated runs"),
    "recommend": SubCommand("evaluation recommend", "write every user's best items, and vectors"),
    "export": SubCommand("evaluation export", "write a folder that recommends by itself"),
    "tune": SubCommand("tuning", "search for better settings"),
    "study": SubCommand("tuning study", "compare several models over several seeds"),
    "preflight": SubCommand("cluster preflight", "check every node of a Ray cluster"),
    "submit": SubCommand("cluster submit", "run all stages as a job of a Ray cluster"),
}


def uses_console() -> bool:
    """Return whether the user started this process as `mdsrec` and not as `python -m STAGE`."""
    program = Path(sys.argv[0])
    return program.name == CONSOLE or program.parts[-2:] == (CONSOLE, "__main__.py")


def spelled(stage: str) -> list[str]:
    """Return the words that run `stage`, such as `cluster run`, as the user spells commands."""
    if uses_console():
        known = {command.module: name for name, command in SUB_COMMANDS.items()}
        return [CONSOLE, known[stage]] if stage in known else [CONSOLE]
    return ["python", "-m", *stage.split()]


def process_of(stage: str) -> list[str]:
    """Return the command of a new process that runs `stage`, spelled as this process was started.

    With the environment of `mdsrec.packages.child_environment` it is our stage that runs, whatever
    the current folder holds.
    """
    program, *words = spelled(stage)
    return [sys.executable, *(["-m", program] if program == CONSOLE else []), *words]
