"""The command line that all stages share: arguments, sub-commands, exit codes."""

import argparse
import difflib
import logging
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mdsrec import __version__
from mdsrec.command.failures import outside_cause, own_mistake
from mdsrec.command.heartbeat import heartbeat
from mdsrec.command.logs import configure_logging
from mdsrec.command.names import spelled
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.config.section import LONGEST_MINUTES, absolute, distinct, listed
from mdsrec.credentials import redacted, without_secret
from mdsrec.errors import InputError
from mdsrec.packages import use_own_packages

log = logging.getLogger("mdsrec")

Command = Callable[[Sequence[str]], None]

SAME_COMMAND = "what is finished is kept: run the same command again to go on"
WITHOUT_FRESH = "what is finished is kept: run the same command without --fresh to go on"
_received: list[int] = []  # signals that this process was ended by
SIGNAL_CODES = {128 + signum: signum for signum in (signal.SIGINT, signal.SIGTERM)}
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


def add_each(parser: argparse.ArgumentParser) -> None:
    """Add --each, for a stage that can take the categories of the input one after the other."""
    parser.add_argument(
        "--each",
        action="store_true",
        help="take each of input.categories by itself, one after the other, below ROOT/CATEGORY",
    )


def each_of(arguments: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """Yield the command line once, or with --each once for each category.

    InputError if there are no categories.
    """
    if not arguments.each:
        yield arguments
        return
    names = load_experiment(arguments.config, arguments.overrides).input.categories
    if not names:
        raise InputError(
            "--each needs [input.categories.NAME], and without input.only: list the files of each "
            "category there"
        )
    for name in names:
        log.info("category %s", name)
        overrides = [*arguments.overrides, f"input.only={name}"]
        yield argparse.Namespace(**vars(arguments) | {"overrides": overrides})


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
    if not 0 < float(text) <= LONGEST_MINUTES:
        raise argparse.ArgumentTypeError(f"{text} must be above 0, and {LONGEST_MINUTES} at most")
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


def _end(signum: int, _frame: object) -> NoReturn:
    _received.append(signum)
    raise SystemExit(128 + signum)


def _interrupt(signum: int, _frame: object) -> NoReturn:
    _received.append(signum)
    raise KeyboardInterrupt


def run_command(stage: str, body: Callable[[Sequence[str] | None], None]) -> int:
    """Run `body` on the command line and return the exit code.

    A mistake of the user (InputError), and what the outside does (a full disk), is printed as one
    line, and the exit code is 2. After a signal the line says how to go on. Only a mistake of this
    program has a traceback.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by `&`
            signal.signal(signal.SIGINT, _interrupt)
    try:
        use_own_packages()
        configure_logging()
        with heartbeat.beating(stage):
            body(None)
        sys.stdout.flush()
    except SystemExit as ended:
        return _exit_code(stage, ended)
    except KeyboardInterrupt as ended:
        return _after_signal(stage, signal.SIGINT, ended)
    except BrokenPipeError:  # the reader of our output, as `| head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if _received:  # in the middle of an import, a signal becomes an error of the package
            return _after_signal(stage, signal.Signals(_received[-1]), error)
        return _failed(stage, error)
    return 0


@contextmanager
def going_on(with_words: str) -> Iterator[None]:
    """Say at a signal how to go on, where the same command would not: `with_words`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ended:
        ended.add_note(with_words)
        raise


def _exit_code(stage: str, ended: SystemExit) -> int:
    """Return the code of an exit, and print a line if a signal was its reason."""
    if ended.code in SIGNAL_CODES:
        return _after_signal(stage, SIGNAL_CODES[ended.code], ended)
    if isinstance(ended.code, str):
        print(ended.code, file=sys.stderr)
        return 1
    return ended.code or 0


def _after_signal(stage: str, signum: signal.Signals, ended: BaseException) -> int:
    what = "terminated" if signum == signal.SIGTERM else "interrupted"
    notes = getattr(ended, "__notes__", [SAME_COMMAND])
    print(f"{stage}: {what}: {notes[-1]}", file=sys.stderr)
    return 128 + signum


def _failed(stage: str, error: Exception) -> int:
    """Print a failure, and return its exit code: 2, or 1 if it is a mistake of this program."""
    line = outside_cause(error)
    if line is None:
        print(redacted("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        print(f"{stage}: {own_mistake()}", file=sys.stderr)
        return 1
    if not isinstance(error, InputError):
        log.debug("%s failed", stage, exc_info=error)
    print(f"{stage}: {redacted(' '.join(line.splitlines()))}", file=sys.stderr)
    return 2
