"""The command line that all stages share: arguments, sub-commands, exit codes."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.credentials import without_secret
from mdsrec.errors import InputError
from mdsrec.logs import configure_logging

Command = Callable[[Sequence[str]], None]

OVERRIDES_HELP = "dotted keys that override the file, as in optim.lr=3e-4"


def experiment_parser(stage: str, summary: str) -> argparse.ArgumentParser:
    """Return a parser of CONFIG and overrides; a stage adds its own options."""
    parser = argparse.ArgumentParser(prog=f"python -m {stage}", description=summary)
    parser.add_argument("config", metavar="CONFIG", help="the experiment's TOML file")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=OVERRIDES_HELP)
    return parser


def experiment_of(arguments: argparse.Namespace) -> Experiment:
    """Load the experiment of the command line, and put its name into every later log line."""
    experiment = load_experiment(arguments.config, arguments.overrides)
    configure_logging(experiment.name)
    return experiment


def command_line(stage: str, arguments: argparse.Namespace) -> str:
    """Return the shell line that runs `stage` on the same experiment, without secret values."""
    overrides = map(without_secret, arguments.overrides)
    return shlex.join(["python", "-m", *stage.split(), arguments.config, *overrides])


def positive_int(text: str) -> int:
    """Parse an option that counts something."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return int(text)


def minutes(text: str) -> float:
    """Parse an option that limits the time."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} must be positive")
    return float(text)


def dispatch(argv: Sequence[str] | None, commands: Mapping[str, Command], default: Command) -> None:
    """Run the sub-command that the first argument names, or else `default` on all arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in commands:
        commands[words[0]](words[1:])
    else:
        default(words)


def run_command(stage: str, body: Callable[[Sequence[str] | None], None]) -> int:
    """Run `body` on the command line and return the exit code.

    A mistake of the user (InputError) is printed as one line, and the exit code is 2.
    """
    try:
        configure_logging()
        body(None)
        sys.stdout.flush()
    except InputError as error:
        print(f"{stage}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, as `| head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
