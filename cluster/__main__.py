"""`python -m cluster run CONFIG [key=value ...]`: all stages of an experiment in turn."""

import argparse
import sys
from collections.abc import Sequence

from mdsrec.command import experiment_parser, run_command


def cluster_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster", description="All stages of an experiment with one command."
    )
    parser.add_argument("command", choices=["run"], help="run: etl, training, evaluation, here")
    parser.add_argument("rest", metavar="...", nargs=argparse.REMAINDER, help="see run --help")
    return parser


def run_parser() -> argparse.ArgumentParser:
    parser = experiment_parser("cluster run", "Run etl, training and evaluation on one experiment.")
    parser.add_argument(
        "--fresh", action="store_true", help="train anew, also where the run's name was used before"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    arguments = cluster_parser().parse_args(argv)
    run = run_parser().parse_intermixed_args(arguments.rest)
    from cluster.run import run_stages

    code = run_stages(run.config, run.overrides, run.fresh)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(run_command("cluster", main))
