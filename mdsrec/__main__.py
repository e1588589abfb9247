"""The console script `mdsrec`: one sub-command per stage, in the order of a user's work."""

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from mdsrec.command import dispatch, run_command, stage_parser
from mdsrec.command.names import CONSOLE, SUB_COMMANDS

SUMMARY = "Distributed training of multimodal sequential recommendation."


def main(argv: Sequence[str] | None = None) -> None:
    """Run a sub-command."""
    dispatch(argv, {name: partial(run, name) for name in SUB_COMMANDS}, no_command)


def run(name: str, words: Sequence[str]) -> None:
    """Run the `main` behind a sub-command."""
    module, *before = SUB_COMMANDS[name].module.split()
    entry = module if module.startswith("mdsrec.") else f"{module}.__main__"
    import_module(entry).main([*before, *words])


def no_command(words: Sequence[str]) -> None:
    """Print the help or the version, or refuse anything else."""
    parser = stage_parser(CONSOLE, SUMMARY, {name: c.does for name, c in SUB_COMMANDS.items()})
    parser.add_argument("command", metavar="SUB-COMMAND", choices=SUB_COMMANDS, help="one of these")
    if not words:
        parser.print_help()
        sys.exit(2)
    parser.parse_args(words)


def console() -> int:
    """Run the command line of this process and return its exit code."""
    return run_command(CONSOLE, main)


if __name__ == "__main__":
    sys.exit(console())
