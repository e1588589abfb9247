"""The experiment of a command line: CONFIG and overrides, or the folder of a run."""

import argparse
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence

from mdsrec.command.logs import configure_logging
from mdsrec.command.names import spelled
from mdsrec.command.stage import stage_parser
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.config.section import absolute
from mdsrec.credentials import redacted, without_secret
from mdsrec.errors import InputError
from mdsrec.files import exists
from mdsrec.run_paths import RunPaths, stored_experiment

log = logging.getLogger("mdsrec")

OVERRIDES_HELP = "dotted keys that override the file, as in optim.lr=3e-4, or a file laid over it"


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


def experiment_or_run_of(arguments: argparse.Namespace) -> Experiment:
    """Return the experiment as `experiment_of` does, or that of the run in the folder CONFIG.

    A run has the configuration that it was trained with, whatever its TOML file says now.
    """
    try:
        folder = absolute(arguments.config).rstrip("/")
    except ValueError:  # then it is no file either, and that error says more
        return experiment_of(arguments)
    is_run = exists(RunPaths(folder).config)
    stored = stored_experiment(folder, arguments.overrides) if is_run else None
    if stored is None:
        return experiment_of(arguments)
    configure_logging(stored.name)
    return stored


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
