"""The command line that all stages share: arguments, sub-commands, exit codes."""

import argparse
import difflib
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mdsrec import __version__
from mdsrec.command.failures import OWN_MISTAKE, outside_cause, own_mistake
from mdsrec.command.heartbeat import heartbeat
from mdsrec.command.logs import configure_logging
from mdsrec.command.names import spelled
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
        return OWN_MISTAKE
    if not isinstance(error, InputError):
        log.debug("%s failed", stage, exc_info=error)
    print(f"{stage}: {redacted(' '.join(line.splitlines()))}", file=sys.stderr)
    return 2
