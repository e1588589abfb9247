"""`python -m training CONFIG`: train the experiment, or continue where it stopped."""

import argparse
import sys
from collections.abc import Sequence

from mdsrec.command import (
    SAME_COMMAND,
    WITHOUT_FRESH,
    add_each,
    command_line,
    each_of,
    experiment_of,
    experiment_parser,
    going_on,
    minutes,
    run_command,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train an experiment to its end, or until it is stopped."""
    parser = experiment_parser("training", "Train a model with Ray Train and DeepSpeed.")
    parser.add_argument("--fresh", action="store_true", help="delete the run of this name first")
    parser.add_argument(
        "--minutes", type=minutes, help="stop after this time; the same command continues"
    )
    add_each(parser)
    for arguments in each_of(parser.parse_intermixed_args(argv)):
        _train(arguments)


def _train(arguments: argparse.Namespace) -> None:
    experiment = experiment_of(arguments)
    from training.run import fit

    with going_on(WITHOUT_FRESH if arguments.fresh else SAME_COMMAND):
        done = fit(experiment, arguments.fresh, arguments.minutes)
        print(done.summary())
        print(f"next        {command_line('training' if done.reason else 'evaluation', arguments)}")
        if done.exit_code:
            sys.exit(done.exit_code)


if __name__ == "__main__":
    raise SystemExit(run_command("training", main))
