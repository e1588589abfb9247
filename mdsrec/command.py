"""What every `python -m STAGE` shares: arguments, and errors of the user's as one line with exit
code 2.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence

from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.credentials import shown
from mdsrec.errors import InputError
from mdsrec.logs import log_lines

OVERRIDES_HELP = "dotted keys laid over the file, as in optim.lr=3e-4"


def experiment_parser(stage: str, summary: str) -> argparse.ArgumentParser:
    """A parser for CONFIG and overrides; a stage adds its own flags."""
    parser = argparse.ArgumentParser(prog=f"python -m {stage}", description=summary)
    parser.add_argument("config", metavar="CONFIG", help="the experiment's TOML file")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=OVERRIDES_HELP)
    return parser


def experiment_of(arguments: argparse.Namespace) -> Experiment:
    """The experiment that is asked for; log lines carry its name from here on."""
    experiment = load_experiment(arguments.config, arguments.overrides)
    log_lines(experiment.name)
    return experiment


def command_line(stage: str, arguments: argparse.Namespace) -> str:
    """`stage` on the same experiment, as a line that a shell runs once what may be secret is filled
    in.
    """
    overrides = map(shown, arguments.overrides)
    return shlex.join(["python", "-m", *stage.split(), arguments.config, *overrides])


def run_command(stage: str, body: Callable[[Sequence[str] | None], None]) -> int:
    """Run `body` on the command line's arguments; the exit code is 2 for the user's mistakes, with
    one line.
    """
    try:
        log_lines()
        body(None)
        sys.stdout.flush()
    except InputError as error:
        print(f"{stage}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, as `| head`, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
