"""The command line that all stages share: arguments, sub-commands, exit codes."""

import argparse
import difflib
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mdsrec import __version__
from mdsrec.command.heartbeat import heartbeat
from mdsrec.command.logs import configure_logging
from mdsrec.command.names import spelled
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.config.section import absolute, distinct, listed
from mdsrec.credentials import redacted, without_secret
from mdsrec.errors import InputError
from mdsrec.packages import use_own_packages

Command = Callable[[Sequence[str]], None]

OVERRIDES_HELP = "dotted keys that override the file, as in optim.lr=3e-4, or a file laid over it"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors repeat no secret."""

    def error(self, message: str) -> NoReturn:
        super().error(without_secret(message))


def stage_parser(
    stage: str, summary: str, commands: Mapping[str, str] | None = None
) -> argparse.ArgumentParser:
    """Return a parser whose help lists `commands`, the sub-commands of the stage."""
    parser = _Parser(prog=" ".join(spelled(stage)), description=summary)
    parser.add_argument("--version", action="version", version=f"mdsrec {__version__}")
    if commands:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter  # keeps the lines
        lines = [f"{name:<10}  {does}" for name, does in commands.items()]
        parser.add_argument_group("sub-commands, each with its own --help", "\n".join(lines))
    return parser


def experiment_parser(
    stage: str, summary: str, commands: Mapping[str, str] | None = None
) -> argparse.ArgumentParser:
    """Return a parser of CONFIG and overrides; a stage adds its own options."""
    parser = stage_parser(stage, summary, commands)
    add_experiment(parser)
    return parser


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG and the overrides."""
    parser.add_argument(
        "config", metavar="CONFIG", type=os.path.expanduser, help="the experiment's TOML file"
    )
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", default=[], help=OVERRIDES_HELP
    )


def experiment_of(arguments: argparse.Namespace) -> Experiment:
    """Load the experiment of the command line, and put its name into every later log line."""
    experiment = load_experiment(arguments.config, arguments.overrides)
    configure_logging(experiment.name)
    return experiment


def command_line(stage: str, arguments: argparse.Namespace, *more: str) -> str:
    """Return the shell line that runs `stage` on the same experiment, without secret values.

    `more` are overrides behind those of the command line.
    """
    overrides = map(without_secret, last_of_each_key([*arguments.overrides, *more]))
    return shlex.join([*spelled(stage), redacted(arguments.config), *overrides])


def last_of_each_key(overrides: Sequence[str]) -> list[str]:
    """Return overrides without those whose key a later one sets again."""
    last = {override.partition("=")[0].strip(): n for n, override in enumerate(overrides)}
    return [overrides[n] for n in sorted(last.values())]


def path(text: str) -> str:
    """Parse a path, which becomes absolute, or a URI."""
    try:
        return absolute(text).rstrip("/") or "/"
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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


class DistinctValues(argparse.Action):
    """A list without repeated values. An option that is given again adds to its values."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, self.default)
        values = values if before is self.default else [*before, *values]
        try:
            setattr(namespace, self.dest, distinct(values))
        except InputError as error:
            raise argparse.ArgumentError(self, str(error)) from None


def dispatch(argv: Sequence[str] | None, commands: Mapping[str, Command], default: Command) -> None:
    """Run the sub-command that the first argument names, or else `default` on all arguments.

    InputError for a word that is neither a sub-command nor a file.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    first = words[0] if words else ""
    if first in commands:
        commands[first](words[1:])
    elif re.fullmatch(r"[A-Za-z][A-Za-z_-]*", first) and not Path(first).exists():
        near = difflib.get_close_matches(first, commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {listed(commands)}"
        raise InputError(f"unknown sub-command {first}; {hint}")
    else:
        default(words)


class EndedBySignal(SystemExit):
    """The process received a signal for which its stage has no handler of its own."""


def _end(signum: int, _frame: object) -> NoReturn:
    raise EndedBySignal(128 + signum)


def run_command(stage: str, body: Callable[[Sequence[str] | None], None]) -> int:
    """Run `body` on the command line and return the exit code.

    A mistake of the user (InputError) is printed as one line, and the exit code is 2.
    """
    use_own_packages()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)
    try:
        configure_logging()
        with heartbeat.beating(stage):
            body(None)
        sys.stdout.flush()
    except InputError as error:
        print(f"{stage}: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, EndedBySignal) as ended:
        is_term = isinstance(ended, EndedBySignal) and ended.code == 128 + signal.SIGTERM
        print(f"{stage}: {'terminated' if is_term else 'interrupted'}", file=sys.stderr)
        return 128 + (signal.SIGTERM if is_term else signal.SIGINT)
    except BrokenPipeError:  # the reader of our output, as `| head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
