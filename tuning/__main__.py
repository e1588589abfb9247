"""`python -m tuning CONFIG`: run a sweep. `python -m tuning study CONFIG`: compare models."""

import sys
from collections.abc import Sequence

from mdsrec.command import (
    DistinctValues,
    dispatch,
    experiment_of,
    experiment_parser,
    going_on,
    minutes,
    positive_int,
    run_command,
)

SWEEP = "Search the space of the section [tune] by validation, and write the winner to best.toml."
COMMANDS = {"study": "compare several models over several seeds"}
STUDY = "Train and rank several models over several seeds, and write a table that compares them."


def main(argv: Sequence[str] | None = None) -> None:
    """Run `study` or, without a sub-command, a sweep."""
    dispatch(argv, {"study": study}, sweep)


def sweep(words: Sequence[str]) -> None:
    """Run the sweep of an experiment."""
    parser = experiment_parser("tuning", SWEEP, COMMANDS)
    parser.add_argument(
        "--resume", action="store_true", help="continue a sweep that was stopped or killed"
    )
    arguments = parser.parse_intermixed_args(words)
    experiment_of(arguments)
    from tuning.report.results import write_results
    from tuning.sweep import Sweep, run_sweep

    started = Sweep(arguments.config, arguments.overrides)
    with going_on("the trials so far are kept: run the same command with --resume to go on"):
        exit_code = run_sweep(started, arguments.resume)
        print(write_results(started))
        if exit_code:
            sys.exit(exit_code)


def study(words: Sequence[str]) -> None:
    """Compare models on the data of an experiment."""
    parser = experiment_parser("tuning study", STUDY)
    parser.add_argument(
        "--models",
        metavar="NAME",
        nargs="+",
        action=DistinctValues,
        default=[],
        help="models to train (default: all)",
    )
    parser.add_argument(
        "--seeds", type=positive_int, default=3, help="number of seeds: 0, 1, ... (default: 3)"
    )
    parser.add_argument(
        "--jobs", type=positive_int, default=1, help="runs in parallel (default: 1)"
    )
    parser.add_argument(
        "--minutes", type=minutes, help="stop after this time; the same command continues"
    )
    a = parser.parse_intermixed_args(words)
    experiment_of(a)
    from tuning.study import run_study

    print(run_study(a.config, a.overrides, a.models, a.seeds, a.jobs, a.minutes))


if __name__ == "__main__":
    sys.exit(run_command("tuning", main))
