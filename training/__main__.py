"""`python -m training CONFIG`: train the experiment, or go on where it stopped."""

import argparse
import signal
import sys
from collections.abc import Sequence

from mdsrec.command import command_line, experiment_of, experiment_parser, run_command


def minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is no time to train in")
    return value


def main(argv: Sequence[str] | None = None) -> None:
    parser = experiment_parser("training", "Train a model with Ray Train and DeepSpeed.")
    parser.add_argument("--fresh", action="store_true", help="delete the run of this name first")
    parser.add_argument(
        "--minutes", type=minutes, help="stop there; the same command goes on later"
    )
    arguments = parser.parse_intermixed_args(argv)
    experiment = experiment_of(arguments)
    from training.lifecycle.stopping import SIGTERM
    from training.run import fit

    done = fit(experiment, arguments.fresh, arguments.minutes)
    print(done.summary())
    print(f"next        {command_line('training' if done.reason else 'evaluation', arguments)}")
    if done.reason == SIGTERM:
        sys.exit(128 + signal.SIGTERM)  # as a shell says that a signal ended it


if __name__ == "__main__":
    raise SystemExit(run_command("training", main))
