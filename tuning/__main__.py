"""`python -m tuning study CONFIG`: models x seeds on one data set, set against each other."""

import argparse
import sys
from collections.abc import Sequence

from mdsrec.command import experiment_of, experiment_parser, run_command

SUMMARY = "Train and rank models over seeds on one data set, and write the table that compares them"


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is no time to work in")
    return value


def study_parser() -> argparse.ArgumentParser:
    parser = experiment_parser("tuning study", f"{SUMMARY}.")
    parser.add_argument("--models", metavar="NAME", nargs="+", default=[], help="all, unasked")
    parser.add_argument("--seeds", type=positive, default=3, help="0, 1, ... (3 of them)")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time (1)")
    parser.add_argument("--minutes", type=minutes, help="stop there; the same command goes on")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m tuning", description=SUMMARY)
    parser.add_argument("command", choices=["study"])
    if words[:1] != ["study"]:
        parser.parse_args(words[:1])
    arguments = study_parser().parse_intermixed_args(words[1:])
    experiment_of(arguments)
    from tuning.study import study

    a = arguments
    print(study(a.config, a.overrides, a.models, a.seeds, a.jobs, a.minutes))


if __name__ == "__main__":
    sys.exit(run_command("tuning", main))
